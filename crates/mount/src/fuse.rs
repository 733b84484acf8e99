//! Mounting the file system: the kernel asks through `/dev/fuse`, threads of this process answer.

use crate::{MountError, OnError, filesystem::Files, namespace::MountPoint};
use coffer_store::FileSet;
use fuser::{Config, Session, SessionACL};
use nix::{
    mount::MsFlags,
    sys::signal::{SigSet, SigmaskHow},
    unistd::{getegid, geteuid},
};
use std::{fs::File, io, os::fd::AsRawFd, path::Path, thread};

const DEVICE: &str = "/dev/fuse";
/// Bytes that the kernel may ask for at a time; its own limit, unless it was raised.
const MAX_READ: usize = 1 << 20;
/// Threads that decrypt; more only queue up for the memory.
const MAX_THREADS: usize = 4;

/// Opens the device.
pub(crate) fn device() -> io::Result<File> {
    File::options().read(true).write(true).open(DEVICE)
}

/// Mounts `files` on `point` and answers for them until the process ends or `point` is dropped. `false` where FUSE is missing or
/// forbidden.
pub(crate) fn serve(point: &MountPoint, files: &FileSet, on_error: OnError) -> Result<bool, MountError> {
    let Ok(device) = device() else { return Ok(false) };
    let (user, group) = (geteuid(), getegid());
    let data = format!(
        "fd={},rootmode=40000,user_id={user},group_id={group},default_permissions,max_read={MAX_READ}",
        device.as_raw_fd()
    );
    if point.mount("fuse.coffer", MsFlags::MS_RDONLY | MsFlags::MS_NOATIME, &data).is_err() {
        return Ok(false);
    }
    let failed = MountError::mount("FUSE", point.path());
    let files = Files::new(files, on_error)?;
    let mut config = Config::default();
    config.n_threads = Some(thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)));
    config.clone_fd = true;
    let session = Session::from_fd(files, device.into(), SessionACL::Owner, config).map_err(&failed)?;
    // The threads end with the mount or with the process, whichever is first: nobody waits for them. Signals are for the
    // thread that runs the command: these take none.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(io::Error::from).map_err(&failed)?;
    let spawned = session.spawn();
    mask.thread_set_mask().map_err(io::Error::from).map_err(&failed)?;
    spawned.map_err(&failed)?;
    read_ahead_further(point);
    Ok(true)
}

/// The kernel reads 128 KiB ahead by default: half a segment. More halves the round trips of whoever reads by mapping.
/// Only root may ask for it; everyone else has the default.
///
/// No thread of this process may use what is mounted: one that waits for an answer when the process ends waits for ever, since those that
/// would answer have ended. So the device's number is taken from the list of mounts.
fn read_ahead_further(point: &MountPoint) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the third field is the device's number, the fifth the place.
    let device = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        (Path::new(fields.nth(1)?) == point.path()).then_some(device)
    });
    if let Some(device) = device {
        let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), (MAX_READ >> 10).to_string());
    }
}
