//! `coffer exec`: a sealed model as ordinary files, for one command only, however that ends.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, Run, command, ok, run};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// More than two segments, no two of which are alike.
fn weights() -> Vec<u8> {
    (0..600_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2..].to_vec()).collect()
}

/// A key, and a bundle of one file or of a directory with a folder in it.
struct Sealed {
    folder: Folder,
    key: String,
    bundle: String,
}

impl Sealed {
    fn new(one_file: bool) -> Self {
        let folder = Folder::new();
        let (key, bundle, plain) = (folder.path("key"), folder.path("bundle"), folder.path("plain"));
        let recipient = ok(&["keygen", "-o", &key]);
        fs::create_dir_all(format!("{plain}/parts")).unwrap();
        fs::write(format!("{plain}/config.json"), "{}").unwrap();
        fs::write(format!("{plain}/parts/model.gguf"), weights()).unwrap();
        let source = if one_file { format!("{plain}/parts/model.gguf") } else { plain };
        ok(&["seal", &source, "-o", &bundle, "--recipient", recipient.trim()]);
        Self { folder, key, bundle }
    }

    fn arguments<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        [&["exec", &self.bundle, "--identity", &self.key, "--"], command].concat()
    }

    fn exec(&self, command: &[&str]) -> Run {
        run(&self.arguments(command))
    }

    /// Whether files are decrypted on demand here; what holds only then is skipped elsewhere, and said so.
    fn fuse(&self) -> bool {
        let run = self.exec(&["true", "{}"]);
        let fuse = run.code == 0 && !run.stderr.contains("/dev/fuse");
        if !fuse {
            println!("skipped: {}", run.stderr.trim());
        }
        fuse
    }

    /// Starts a shell that prints a line and then waits; gives that line.
    fn start(&self, script: &str) -> (Child, String) {
        let mut command = command(&self.arguments(&["sh", "-c", script, "{}"]));
        let mut child = command.env("TMPDIR", self.folder.root()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }
}

#[test]
fn one_file_is_a_file_and_several_are_a_directory() {
    let sealed = Sealed::new(true);
    let out = command(&sealed.arguments(&["cat", "{}"])).output().unwrap();
    assert!(out.stdout == weights(), "{}", String::from_utf8_lossy(&out.stderr));
    let beside = sealed.exec(&["sh", "-c", "cmp --bytes=99 \"$1\" \"$2\" && ls -l \"$1\"", "sh", "{}", "{}/model.gguf"]);
    assert_eq!(beside.code, 0, "{}", beside.stderr);
    assert!(beside.stdout.starts_with("-r--r--r--"), "{}", beside.stdout);

    let sealed = Sealed::new(false);
    let listed =
        sealed.exec(&["sh", "-c", "cd \"${1#--model=}\" && find . -type f | sort && cat config.json", "sh", "--model={}"]);
    assert_eq!(listed.stdout, "./config.json\n./parts/model.gguf\n{}", "{}", listed.stderr);
    let refused = sealed.exec(&["sh", "-c", "echo x 2>&1 > \"$1\"/config.json; echo y 2>&1 > \"$1\"/new", "sh", "{}"]);
    assert_ne!(refused.code, 0);
    assert_eq!(sealed.exec(&["cat", "{}/parts/none"]).code, 1);
}

#[test]
fn without_fuse_or_namespaces_the_files_are_in_memory() {
    let no_fuse = "mount --bind /dev/null /dev/fuse && exec \"$@\"";
    let no_namespace = "echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$@\"";
    for (script, held) in [(no_fuse, "ramfs"), (no_namespace, "/proc/self/fd/")] {
        let sealed = Sealed::new(false);
        let look =
            "cat \"$1/config.json\" && cat /proc/mounts && readlink \"$1/config.json\"; cmp \"$1/parts/model.gguf\" \"$2\"";
        let plain = sealed.folder.path("plain/parts/model.gguf");
        let mut unshare = Command::new("unshare");
        unshare.args(["-Urm", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_coffer")]);
        let out = unshare.args(sealed.arguments(&["sh", "-c", look, "sh", "{}", &plain])).output();
        let Some(out) = out.ok().filter(|out| !String::from_utf8_lossy(&out.stderr).starts_with("unshare:")) else {
            return println!("skipped: no user namespaces for unshare(1)");
        };
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && stdout.starts_with("{}") && stdout.contains(held), "{held}: {stdout}{stderr}");
        assert!(stderr.contains("/dev/fuse"), "{held}: {stderr}");
    }
}

#[test]
fn reads_at_any_place_give_the_plain_bytes() {
    let sealed = Sealed::new(true);
    let plain = weights();
    // Across the ends of segments, the last bytes, beyond the end.
    for (at, len) in [(0, 1), (262_111, 2), (262_112, 262_144), (524_000, 700_000), (1_199_990, 100), (1_200_000, 5)] {
        let read = ["sh", "-c", "tail -c +$(($2 + 1)) \"$1\" | head -c $3", "sh", "{}", &at.to_string(), &len.to_string()];
        let out = command(&sealed.arguments(&read)).output().unwrap();
        assert!(out.stdout == plain[at.min(plain.len())..(at + len).min(plain.len())], "{at} {len}");
    }
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let sealed = Sealed::new(true);
    assert_eq!(sealed.exec(&["sh", "-c", "exit 37", "{}"]).code, 37);
    assert_eq!(sealed.exec(&["sh", "-c", "kill -ABRT $$", "{}"]).code, 134);
    let missing = sealed.exec(&["no-such-engine", "{}"]);
    assert_eq!(missing.code, 127, "{}", missing.stderr);
    assert!(missing.stderr.contains("no-such-engine"), "{}", missing.stderr);
    assert_eq!(sealed.exec(&["/etc", "{}"]).code, 126);
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is() {
    let sealed = Sealed::new(true);
    let no_braces = sealed.exec(&["echo", "started"]);
    assert_eq!((no_braces.code, no_braces.stdout.as_str()), (2, ""));
    assert!(no_braces.stderr.contains("{}"), "{}", no_braces.stderr);
    let other = sealed.folder.path("other");
    ok(&["keygen", "-o", &other]);
    let wrong = run(&["exec", &sealed.bundle, "--identity", &other, "--", "echo", "{}"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""));
    assert!(wrong.stderr.contains("none of the 1 identities"), "{}", wrong.stderr);
    let plain = run(&["exec", &sealed.folder.path("plain"), "--identity", &sealed.key, "--", "echo", "{}"]);
    assert_eq!(plain.code, 1);
    assert!(plain.stderr.contains("no sealed bundle"), "{}", plain.stderr);
    assert_eq!(run(&["exec", &sealed.bundle, "--", "echo", "{}"]).code, 2);
}

#[test]
fn a_damaged_segment_is_an_error_to_the_reader_and_named_to_the_user() {
    let sealed = Sealed::new(true);
    if !sealed.fuse() {
        return;
    }
    let data = fs::File::options().read(true).write(true).open(format!("{}/data", sealed.bundle)).unwrap();
    let (at, mut byte) = (300_000, [0]);
    data.read_exact_at(&mut byte, at).unwrap();
    data.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let read =
        sealed.exec(&["sh", "-c", "head -c 100000 \"$1\" > /dev/null && echo whole && exec cat \"$1\" > /dev/null", "sh", "{}"]);
    assert_eq!((read.code, read.stdout.as_str()), (1, "whole\n"), "{}", read.stderr);
    assert!(read.stderr.contains("model.gguf") && read.stderr.contains("segment 1"), "{}", read.stderr);
}

#[test]
fn nobody_else_sees_the_files_and_they_end_with_the_command() {
    let sealed = Sealed::new(true);
    if !sealed.fuse() {
        return;
    }
    let (mut child, path) = sealed.start("head -c 1 \"$0\" > /dev/null; echo \"$0\"; exec sleep 60");
    assert!(!Path::new(&path).exists(), "{path} is visible outside");
    let outside = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!outside.contains("fuse.coffer"), "{outside}");
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15), "SIGTERM reaches the command");
    assert!(!Path::new(&path).parent().unwrap().exists(), "{path}: the directory is left");
}

#[test]
fn the_command_dies_with_a_killed_coffer() {
    let sealed = Sealed::new(true);
    let (mut child, pid) = sealed.start("echo $$; exec sleep 60");
    let alive = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(alive());
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    while alive() {
        assert!(begin.elapsed() < Duration::from_secs(5), "{pid} outlives coffer");
        thread::sleep(Duration::from_millis(10));
    }
    // The folder that its mount was on is empty, and the next run removes it.
    let left = || {
        fs::read_dir(sealed.folder.root()).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("coffer-exec-"))
    };
    assert!(left() || !sealed.fuse());
    let mut next = command(&sealed.arguments(&["true", "{}"]));
    assert!(next.env("TMPDIR", sealed.folder.root()).status().unwrap().success());
    assert!(!left());
}

#[test]
fn what_a_command_leaves_behind_loses_the_model() {
    let sealed = Sealed::new(true);
    if !sealed.fuse() {
        return;
    }
    // The shell ends at once; its child tries to read what was not read before.
    let script = "(sleep 0.5; cat \"$0\" > /dev/null 2>&1 && echo read || echo gone) & echo left";
    let (mut child, left) = sealed.start(script);
    assert_eq!(left, "left");
    let mut rest = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.trim()), (Some(0), "gone"));
}

#[test]
fn neither_coffer_nor_the_command_can_dump_core() {
    let sealed = Sealed::new(true);
    let (mut child, limit) = sealed.start("ulimit -c; exec sleep 60");
    assert_eq!(limit, "0", "blocks of 512 bytes or more");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()));
    // Where this process may still look: what cannot be dumped belongs to root alone.
    if let Ok(limits) = limits {
        let line = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap().to_owned();
        assert_eq!(line.split_whitespace().nth(4), Some("1"), "{line}");
    }
    signal(child.id(), "TERM");
    child.wait().unwrap();
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}
