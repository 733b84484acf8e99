//! Files that come out of a bundle, into a folder that appears whole or not at all.

use super::{
    BundleError,
    unfinished::{Unfinished, sync_folder},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// The folder, and the file in it that grows.
pub(super) struct Unpacked {
    folder: Unfinished,
    inner: BTreeSet<PathBuf>,
    current: Option<(PathBuf, File)>,
    /// Bytes of the current file, or of the one that just ended.
    pub(super) written: u64,
}

impl Unpacked {
    /// Starts the folder `target`, which must not exist.
    pub(super) fn create(target: &Path) -> Result<Self, BundleError> {
        let folder = Unfinished::create(target)?;
        Ok(Self { folder, inner: BTreeSet::new(), current: None, written: 0 })
    }

    /// Appends to the file `name`, which is begun if none is open, and ended (and synced) if this `ends` it.
    pub(super) fn write(&mut self, name: &str, part: &[u8], ends: bool) -> Result<(), BundleError> {
        let (path, mut file) = match self.current.take() {
            Some(current) => current,
            None => self.begin(name)?,
        };
        file.write_all(part).map_err(BundleError::io(&path))?;
        self.written += part.len() as u64;
        if ends {
            return file.sync_all().map_err(BundleError::io(&path));
        }
        self.current = Some((path, file));
        Ok(())
    }

    /// Syncs the folders and gives the whole its name.
    pub(super) fn finish(self) -> Result<(), BundleError> {
        self.inner.iter().rev().try_for_each(|path| sync_folder(path))?;
        self.folder.rename()
    }

    fn begin(&mut self, name: &str) -> Result<(PathBuf, File), BundleError> {
        let path = self.folder.path().join(name);
        let parent = path.parent().unwrap_or(self.folder.path());
        fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
        self.inner.extend(parent.ancestors().take_while(|p| *p != self.folder.path()).map(Path::to_owned));
        let file = File::create_new(&path).map_err(BundleError::io(&path))?;
        self.written = 0;
        Ok((path, file))
    }
}
