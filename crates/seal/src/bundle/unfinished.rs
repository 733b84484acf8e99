//! Folders that appear whole or not at all: written under a temporary name, synced, then renamed or exchanged.

use super::{BundleError, layout::random};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A folder `.NAME.RANDOM.tmp`, removed unless it is renamed. Its writer holds a lock on it; one that nobody holds was left by a
/// run that was killed, and the next one for the same name removes it.
pub(super) struct Unfinished {
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
    renamed: bool,
    _lock: File,
}

impl Unfinished {
    /// An empty folder beside `target`, which must not exist.
    pub(super) fn create(target: &Path) -> Result<Self, BundleError> {
        refuse_existing(target)?;
        Self::beside(target)
    }

    /// An empty folder beside `target`.
    pub(super) fn beside(target: &Path) -> Result<Self, BundleError> {
        let name = target.file_name().ok_or_else(|| BundleError::Exists(target.display().to_string()))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        remove_left_behind(parent(target), &prefix);
        loop {
            let path = target.with_file_name(format!("{prefix}{}.tmp", hex::encode(random::<4>()?)));
            fs::create_dir(&path).map_err(BundleError::io(&path))?;
            let lock = File::open(&path).map_err(BundleError::io(&path))?;
            // Where there are no locks, nobody removes it either.
            let _ = lock.lock();
            if is_still(&path, &lock) {
                return Ok(Self { path, target: target.to_owned(), renamed: false, _lock: lock });
            }
        }
    }

    /// Syncs the folder and gives it its final name.
    pub(super) fn rename(mut self) -> Result<(), BundleError> {
        refuse_existing(&self.target)?;
        sync_folder(&self.path)?;
        fs::rename(&self.path, &self.target).map_err(BundleError::io(&self.target))?;
        self.renamed = true;
        sync_folder(parent(&self.target))
    }

    /// Syncs the folder and puts it in the place of the folder `old`, in one step; `old` is then removed.
    pub(super) fn exchange(self, old: &Path) -> Result<(), BundleError> {
        sync_folder(&self.path)?;
        renameat_with(CWD, &self.path, CWD, old, RenameFlags::EXCHANGE)
            .map_err(|e| BundleError::NoExchange { path: old.display().to_string(), source: e.into() })?;
        sync_folder(parent(old))?;
        sync_folder(parent(&self.path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

pub(super) fn sync_folder(path: &Path) -> Result<(), BundleError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(BundleError::io(path))
}

pub(super) fn refuse_existing(path: &Path) -> Result<(), BundleError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(BundleError::io(path)(e)),
        Ok(_) => Err(BundleError::Exists(path.display().to_string())),
    }
}

/// Folders that killed runs left. What cannot be looked at or removed stays.
fn remove_left_behind(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let random = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".tmp"));
        let ours = random.is_some_and(|r| r.len() == 8 && r.bytes().all(|b| b.is_ascii_hexdigit()));
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

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
