//! Directories: every file below, in path order, without following links.

use crate::{
    content::{self, Item},
    rules::{Findings, LIMIT, SPECIAL_FILE, SYMLINK},
    source::FileSource,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const MAX_FILES: u64 = 100_000;
const MAX_DEPTH: u32 = 32;

/// Scans what `path` names, following it if it is itself a link, and returns the number of files.
pub(crate) fn scan_path(findings: &mut Findings, path: &Path) -> io::Result<u64> {
    let kind = fs::metadata(path).map_err(|e| named(path, e))?.file_type();
    let mut walk = Walk { root: fs::canonicalize(path).map_err(|e| named(path, e))?, findings, files: 0 };
    if kind.is_dir() {
        walk.directory(path, 0)?;
    } else if kind.is_file() {
        walk.file(path)?;
    } else {
        walk.findings.add(&SPECIAL_FILE, &path.display().to_string(), None, SPECIAL.to_owned());
    }
    Ok(walk.files)
}

const SPECIAL: &str = "neither file nor directory (a device, pipe or socket); it was not opened";

struct Walk<'a> {
    root: PathBuf,
    findings: &'a mut Findings,
    files: u64,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, depth: u32) -> io::Result<()> {
        let shown = path.display().to_string();
        if depth > MAX_DEPTH {
            self.findings.add(&LIMIT, &shown, None, format!("directories nested more than {MAX_DEPTH} deep"));
            return Ok(());
        }
        let entries = fs::read_dir(path).map_err(|e| named(path, e))?;
        let mut children = Vec::new();
        for entry in entries {
            children.push(entry.map_err(|e| named(path, e))?.path());
            if children.len() as u64 + self.files > MAX_FILES {
                self.findings.add(&LIMIT, &shown, None, format!("more than {MAX_FILES} files; the rest was not scanned"));
                break;
            }
        }
        children.sort();
        for child in children {
            let kind = fs::symlink_metadata(&child).map_err(|e| named(&child, e))?.file_type();
            if kind.is_symlink() {
                self.link(&child);
            } else if kind.is_dir() {
                self.directory(&child, depth + 1)?;
            } else if kind.is_file() {
                self.file(&child)?;
            } else {
                self.findings.add(&SPECIAL_FILE, &child.display().to_string(), None, SPECIAL.to_owned());
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.files += 1;
        let file = File::open(path).map_err(|e| named(path, e))?;
        let len = file.metadata().map_err(|e| named(path, e))?.len();
        let source = FileSource { file, len };
        content::scan(self.findings, &Item::file(&path.display().to_string(), &source)).map_err(|e| named(path, e))
    }

    /// A link that stays inside is no finding: what it names is scanned where it lies.
    fn link(&mut self, path: &Path) {
        let target = fs::canonicalize(path);
        if target.as_ref().is_ok_and(|t| t.starts_with(&self.root)) {
            return;
        }
        let target = target.map_or_else(|e| format!("nothing that can be opened ({e})"), |t| t.display().to_string());
        let message = format!("a symbolic link out of the directory, to {target}; it was not followed: scan its target too");
        self.findings.add(&SYMLINK, &path.display().to_string(), None, message);
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
