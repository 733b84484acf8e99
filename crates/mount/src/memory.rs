//! Where FUSE is missing: all files decrypted into memory at the start.

use crate::{MountError, available_memory, namespace::MountPoint, own_folder, swap_is_on};
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
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};
use zeroize::Zeroizing;

const SHARED_MEMORY: &str = "/dev/shm";
/// Below the 1024 descriptors that a process may have open by default.
const MAX_MEMFDS: usize = 500;
/// Bytes decrypted at a time.
const CHUNK: u64 = 4 << 20;
/// Threads that decrypt; more only queue up for the memory.
const MAX_THREADS: usize = 8;

/// Decrypts everything into a ramfs on `point`. Unlike a tmpfs, a ramfs is never swapped.
pub(crate) fn ramfs(point: &MountPoint, files: &FileSet, progress: &mut dyn FnMut(u64, u64)) -> Result<PathBuf, MountError> {
    let mut progress = Progress::new(files, progress)?;
    let failed = MountError::mount("a ramfs", point.path());
    point.mount("ramfs", MsFlags::empty(), "mode=0700").map_err(&failed)?;
    let root = point.join("model");
    for (name, _) in files.list() {
        let path = root.join(name);
        let made = fs::create_dir_all(path.parent().unwrap_or(&root))
            .and_then(|()| File::options().write(true).create_new(true).mode(0o444).open(&path));
        copy(&*files.file(name)?, &made.map_err(&failed)?, &mut progress).map_err(|failure| match failure {
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

    fn add(&mut self, name: &str, file: &dyn ReadAt, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let memory = memory_file(file, progress)?;
        let link = self.path().join(name);
        fs::create_dir_all(link.parent().unwrap_or(self.path()))?;
        symlink(format!("/proc/self/fd/{}", memory.as_raw_fd()), link)?;
        self.files.push(memory);
        Ok(())
    }
}

/// Decrypts everything into memory files, for whoever may have no mount namespace (`refused` says why not).
pub(crate) fn memfds(files: &FileSet, refused: MountError, progress: &mut dyn FnMut(u64, u64)) -> Result<Links, MountError> {
    let namespace = Box::new(refused);
    if swap_is_on().unwrap_or(true) {
        return Err(MountError::Swap { namespace });
    }
    let list = files.list();
    if list.len() > MAX_MEMFDS {
        let reason = format!("there are {} files, at most {MAX_MEMFDS} can be shown this way", list.len());
        return Err(MountError::Memory { namespace, reason });
    }
    let mut progress = Progress::new(files, progress)?;
    let mut make = || -> Result<Links, Failure> {
        let directory = own_folder(Path::new(SHARED_MEMORY))?;
        let mut links = Links { directory, files: Vec::new() };
        list.iter().try_for_each(|(name, _)| links.add(name, &*files.file(name)?, &mut progress))?;
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
fn memory_file(file: &dyn ReadAt, progress: &mut Progress<'_>) -> Result<OwnedFd, Failure> {
    let memory = File::from(memfd_create("model", MFdFlags::MFD_ALLOW_SEALING).map_err(io::Error::from)?);
    copy(file, &memory, progress)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(io::Error::from)?;
    Ok(memory.into())
}

/// Bytes of all files, and how many of them are decrypted.
struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Progress<'a> {
    /// Nothing is done yet; there is room for all.
    fn new(files: &FileSet, tell: &'a mut dyn FnMut(u64, u64)) -> Result<Self, MountError> {
        let needed = files.list().iter().map(|(_, size)| size).sum();
        match available_memory() {
            Some(available) if available < needed => Err(MountError::Room { needed, available }),
            _ => Ok(Self { done: 0, total: needed, tell }),
        }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        (self.tell)(self.done, self.total);
    }
}

/// Decrypts all of `file` into `to`, on several threads.
fn copy(file: &dyn ReadAt, to: &File, progress: &mut Progress<'_>) -> Result<(), Failure> {
    to.set_len(file.len())?;
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
    let threads = (file.len().div_ceil(CHUNK)).min(threads as u64);
    let next = &AtomicU64::new(0);
    let (done, told) = channel();
    thread::scope(|scope| {
        let start = |_| {
            let done = done.clone();
            // After a failure nobody needs the rest.
            scope.spawn(move || copy_parts(file, to, next, &done).inspect_err(|_| next.store(file.len(), Ordering::Relaxed)))
        };
        let workers: Vec<_> = (0..threads).map(start).collect();
        drop(done);
        told.iter().for_each(|bytes| progress.add(bytes));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Copies the part of `file` at `next`, and on, until there is none left.
fn copy_parts(file: &dyn ReadAt, to: &File, next: &AtomicU64, done: &Sender<u64>) -> Result<(), Failure> {
    let mut chunk = Zeroizing::new(vec![0; file.len().min(CHUNK) as usize]);
    loop {
        let at = next.fetch_add(CHUNK, Ordering::Relaxed);
        if at >= file.len() {
            return Ok(());
        }
        let part = &mut chunk[..(file.len() - at).min(CHUNK) as usize];
        file.read_exact_at(at, part).map_err(StoreError::from)?;
        to.write_all_at(part, at)?;
        // Whoever started this listens until all have ended.
        let _ = done.send(part.len() as u64);
    }
}
