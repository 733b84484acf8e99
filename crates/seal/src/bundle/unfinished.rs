//! Folders that appear whole or not at all: written under a temporary name, synced, then renamed or exchanged.

use super::BundleError;
use crate::LockedFolder;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A folder `.NAME.RANDOM.tmp` beside the one that it will be.
pub(super) struct Unfinished {
    folder: LockedFolder,
    pub(super) target: PathBuf,
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
        let folder = LockedFolder::create(parent(target), &prefix, ".tmp", 0o777).map_err(BundleError::io(target))?;
        Ok(Self { folder, target: target.to_owned() })
    }

    /// Where it is until it is whole.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs the folder and gives it its final name.
    pub(super) fn rename(self) -> Result<(), BundleError> {
        refuse_existing(&self.target)?;
        sync_folder(self.path())?;
        self.folder.rename(&self.target).map_err(BundleError::io(&self.target))?;
        sync_folder(parent(&self.target))
    }

    /// Syncs the folder and puts it in the place of the folder `old`, in one step; `old` is then removed.
    pub(super) fn exchange(self, old: &Path) -> Result<(), BundleError> {
        sync_folder(self.path())?;
        renameat_with(CWD, self.path(), CWD, old, RenameFlags::EXCHANGE)
            .map_err(|e| BundleError::NoExchange { path: old.display().to_string(), source: e.into() })?;
        sync_folder(parent(old))?;
        sync_folder(parent(self.path()))
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

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
