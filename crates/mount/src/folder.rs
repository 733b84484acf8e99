//! A folder for one run, which the next one removes if this one is killed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};
use tempfile::TempDir;

const PREFIX: &str = "coffer-exec-";

/// An empty folder that only its owner may enter, removed when this is dropped. It is locked as long as the process lives.
pub(crate) struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// A new one in `parent`, after those that killed runs left there are removed.
    pub(crate) fn new_in(parent: &Path) -> io::Result<Self> {
        remove_left_behind(parent);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let lock = File::open(folder.path())?;
            // Where there are no locks, nobody removes it either.
            let _ = lock.lock();
            if is_still(folder.path(), &lock) {
                return Ok(Self { folder, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes folders that nobody holds. They are empty, or hold links that lead nowhere any more; what cannot be looked at or removed
/// stays.
fn remove_left_behind(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether nobody took the folder for one that was left behind before it was locked.
fn is_still(path: &Path, lock: &File) -> bool {
    match (fs::symlink_metadata(path), lock.metadata()) {
        (Ok(found), Ok(held)) => (found.dev(), found.ino()) == (held.dev(), held.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (left, other) = (parent.path().join("coffer-exec-left"), parent.path().join("coffer-other"));
        [&left, &other].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        std::os::unix::fs::symlink("/proc/self/fd/9", left.join("link")).unwrap();
        let held = Folder::new_in(parent.path()).unwrap();
        assert!(!left.exists() && other.exists());
        let next = Folder::new_in(parent.path()).unwrap();
        assert!(held.path().exists() && next.path().exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
