//! The machine that measures: what has to be equal before each run, and what a command takes of it.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::{self, Read, Seek},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const MEMORY: &str = "/dev/shm";
/// How often the memory of a command is looked at, which is also how exact its time is.
const TICK: Duration = Duration::from_millis(2);

/// What a command took.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    /// From its start to its end.
    pub(super) seconds: f64,
    /// The most memory that was resident at once, in MB (10^6 bytes).
    pub(super) peak: f64,
}

/// Makes the next run like all others: everything written is on the disk, and `bytes` of memory lie ready.
///
/// A virtual machine may hand freed pages back to its host. Getting one back costs several times as much as filling it, so
/// that a run which writes into such memory would pay for what the run before it freed: up to 6 s for a copy of 2 GB that
/// otherwise takes one. So as much memory as any side needs is taken and freed just before each run of each side.
pub(super) fn ready(bytes: u64) -> Result<()> {
    crate::peers::run(&mut Command::new("sync"))?;
    let mut file = tempfile::tempfile_in(MEMORY).context(MEMORY)?;
    let copied = io::copy(&mut io::repeat(1).take(bytes), &mut file);
    copied.map(drop).with_context(|| format!("{bytes} bytes in {MEMORY}: too little memory to measure with this model"))
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

/// Reads a file, so that its pages are in memory.
pub(super) fn cache(path: &Path) -> Result<()> {
    io::copy(&mut fs::File::open(path)?, &mut io::sink()).map(drop).with_context(|| path.display().to_string())
}

/// Runs a command that must succeed and looks at it until it ends.
pub(super) fn watch(command: &mut Command) -> Result<Spent> {
    let mut errors = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut peak = 0.0;
    let status = loop {
        peak = high_water_mark(&child).unwrap_or(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(TICK);
    };
    let seconds = start.elapsed().as_secs_f64();
    let mut text = String::new();
    errors.rewind()?;
    errors.read_to_string(&mut text)?;
    ensure!(status.success(), "{command:?} ended with {status}\n{text}");
    Ok(Spent { seconds, peak })
}

/// proc(5): `VmHWM`, in KiB; `None` once the process has ended.
fn high_water_mark(child: &Child) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
