//! Decrypting ahead of the reader: an engine opens a model's file, then reads its header and builds its vocabulary before it asks for
//! the weights. By then they are in the kernel's page cache.

use crate::fuse::MAX_READ;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::{fs::File, io, path::Path, thread};

/// One part in so many of the available memory may be filled with what nobody has asked for yet.
const SHARE: u64 = 2;

/// Has the mounted file at `path` read into the page cache by a thread of its own. Whatever goes wrong shows when somebody reads it.
pub(crate) fn start(path: &Path, size: u64) {
    let path = path.to_owned();
    let _ = thread::Builder::new().name("ahead".into()).spawn(move || read_ahead(&path, size));
}

fn read_ahead(path: &Path, size: u64) -> io::Result<()> {
    let file = File::open(path)?;
    // Where nobody says how much memory there is, none is filled.
    let end = size.min(crate::memory("MemAvailable:").unwrap_or(0) / SHARE);
    for at in (0..end).step_by(MAX_READ) {
        posix_fadvise(&file, at as i64, MAX_READ as i64, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
    }
    Ok(())
}
