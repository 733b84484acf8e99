//! Runs the built command.

use std::{fs, path::Path, process::Command};

/// What a run printed, and how it ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A folder that is removed in the end.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// A file or folder of the project's assets.
pub(crate) fn asset(name: &str) -> String {
    format!("{}/../assets/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A copy of the project's model, to be spoilt.
pub(crate) fn copy(folder: &Folder, name: &str) -> String {
    let to = folder.path(name);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(asset("models/scribe-8m")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, Path::new(&to).join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// `coffer` with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(arguments);
    command
}

/// Runs `coffer`.
pub(crate) fn run(arguments: &[&str]) -> Run {
    let out = command(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// Runs `coffer`, which must succeed; gives what it prints.
pub(crate) fn ok(arguments: &[&str]) -> String {
    let run = run(arguments);
    assert_eq!(run.code, 0, "coffer {arguments:?}\n{}", run.stderr);
    run.stdout
}

/// What was printed with `--json`.
pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
