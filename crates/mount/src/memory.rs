//! Where FUSE is missing: all files decrypted into memory at the start.

use crate::{MountError, namespace::MountPoint, own_folder, swap_is_on};
use coffer_checkpoint::ReadAt;
use coffer_seal::LockedFolder;
use coffer_store::{FileSet, StoreError};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    mount::MsFlags,
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const SHARED_MEMORY: &str = "/dev/shm";
/// Below the 1024 descriptors that a process may have open by default.
const MAX_MEMFDS: usize = 500;
const CHUNK: u64 = 4 << 20;

/// Decrypts everything into a ramfs on `point`. Unlike a tmpfs, a ramfs is never swapped.
pub(crate) fn ramfs(point: &MountPoint, files: &FileSet) -> Result<PathBuf, MountError> {
    let failed = MountError::mount("a ramfs", point.path());
    point.mount("ramfs", MsFlags::empty(), "mode=0700").map_err(&failed)?;
    let root = point.join("model");
    for (name, _) in files.list() {
        let path = root.join(name);
        let made = fs::create_dir_all(path.parent().unwrap_or(&root)).and_then(|()| File::create_new(&path));
        copy(&*files.file(name)?, &mut made.map_err(&failed)?).map_err(|failure| match failure {
            Failure::Store(error) => error.into(),
            Failure::Io(error) => failed(error),
        })?;
    }
    point.freeze().map_err(&failed)?;
    Ok(root)
}

/// A directory of links to memory files, one for each file.
pub(crate) struct Links {
    directory: LockedFolder,
    /// Open until the end: a link leads to the descriptor that the reader has inherited.
    files: Vec<OwnedFd>,
}

impl Links {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn add(&mut self, name: &str, file: &dyn ReadAt) -> Result<(), Failure> {
        let memory = memory_file(file)?;
        let link = self.path().join(name);
        fs::create_dir_all(link.parent().unwrap_or(self.path()))?;
        symlink(format!("/proc/self/fd/{}", memory.as_raw_fd()), link)?;
        self.files.push(memory);
        Ok(())
    }
}

/// Decrypts everything into memory files, for whoever may have no mount namespace (`refused` says why not).
pub(crate) fn memfds(files: &FileSet, refused: MountError) -> Result<Links, MountError> {
    let namespace = Box::new(refused);
    if swap_is_on().unwrap_or(true) {
        return Err(MountError::Swap { namespace });
    }
    let list = files.list();
    if list.len() > MAX_MEMFDS {
        let reason = format!("there are {} files, at most {MAX_MEMFDS} can be shown this way", list.len());
        return Err(MountError::Memory { namespace, reason });
    }
    let make = || -> Result<Links, Failure> {
        let directory = own_folder(Path::new(SHARED_MEMORY))?;
        let mut links = Links { directory, files: Vec::new() };
        list.iter().try_for_each(|(name, _)| links.add(name, &*files.file(name)?))?;
        Ok(links)
    };
    make().map_err(|failure| match failure {
        Failure::Store(error) => error.into(),
        Failure::Io(error) => MountError::Memory { namespace, reason: error.to_string() },
    })
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The file's plaintext in memory that nobody can change; its descriptor is inherited by child processes.
fn memory_file(file: &dyn ReadAt) -> Result<OwnedFd, Failure> {
    let mut memory = File::from(memfd_create("model", MFdFlags::MFD_ALLOW_SEALING).map_err(io::Error::from)?);
    copy(file, &mut memory)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(io::Error::from)?;
    Ok(memory.into())
}

fn copy(file: &dyn ReadAt, to: &mut File) -> Result<(), Failure> {
    let mut chunk = Zeroizing::new(vec![0; file.len().min(CHUNK) as usize]);
    let mut at = 0;
    while at < file.len() {
        let part = &mut chunk[..(file.len() - at).min(CHUNK) as usize];
        file.read_exact_at(at, part).map_err(StoreError::from)?;
        to.write_all(part)?;
        at += part.len() as u64;
    }
    Ok(())
}
