//! Sealed files as ordinary read-only ones, for this process and those that it starts: what lets an engine that knows
//! nothing of bundles run a sealed model. No plaintext reaches a disk. Linux only.
//!
//! Three ways, the first that the machine allows:
//!
//! | needs | files are | decrypted |
//! |---|---|---|
//! | a private mount namespace and `/dev/fuse` | a FUSE file system | on demand |
//! | a private mount namespace | a ramfs, which is never swapped | all of them, at the start |
//! | `/dev/shm`, and swap off | memory files (memfd) behind links | all of them, at the start |

mod filesystem;
mod fuse;
mod memory;
mod namespace;
mod room;

pub use namespace::Namespace;
pub use room::{available_memory, total_memory};

use coffer_seal::LockedFolder;
use coffer_store::{FileSet, StoreError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Told, once each, what an engine that reads the files cannot be told: which file, which part of the bundle is damaged.
pub type OnError = Box<dyn Fn(&str) + Send + Sync>;

/// How the files are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Decrypted on demand.
    Fuse,
    /// Decrypted into memory that is never swapped.
    Ramfs,
    /// Decrypted into memory files that only processes which inherit their descriptors can open.
    Memfd,
}

/// Files, readable below [`Mounted::root`] until this is dropped.
pub struct Mounted {
    root: PathBuf,
    names: Vec<String>,
    way: Way,
    _held: Held,
}

/// What keeps the files there, and takes them away when it is dropped.
#[expect(dead_code, reason = "held for what happens when it is dropped")]
enum Held {
    Mount(namespace::MountPoint),
    Links(memory::Links),
}

impl Mounted {
    /// Makes `files` readable, each read held against what was verified if something was. `namespace` is this process's own, where
    /// it may have one. `progress` is given bytes done and bytes in all where they are decrypted at the start.
    ///
    /// # Errors
    /// Returns [`MountError`] if none of the three ways is open, with the reason for each, or if what is decrypted at the start would
    /// not fit in memory.
    pub fn new(
        files: &FileSet,
        namespace: Result<Namespace, MountError>,
        on_error: OnError,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, MountError> {
        let (root, way, held) = match namespace {
            Ok(namespace) => {
                let point = namespace.mount_point()?;
                match fuse::serve(&point, files, on_error)? {
                    true => (point.path().to_owned(), Way::Fuse, Held::Mount(point)),
                    false => (memory::ramfs(&point, files, progress)?, Way::Ramfs, Held::Mount(point)),
                }
            }
            Err(refused) => {
                let links = memory::memfds(files, refused, progress)?;
                (links.path().to_owned(), Way::Memfd, Held::Links(links))
            }
        };
        let names = files.list().iter().map(|(name, _)| name.clone()).collect();
        Ok(Self { root, names, way, _held: held })
    }

    /// The directory of the files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What stands for the model: its file, if it is one file, else the directory.
    pub fn model(&self) -> PathBuf {
        match self.names.as_slice() {
            [one] => self.root.join(one),
            _ => self.root.clone(),
        }
    }

    /// How the files are held.
    pub fn way(&self) -> Way {
        self.way
    }
}

/// Whether `/dev/fuse` can be opened.
///
/// # Errors
/// Returns the system's answer if it cannot.
pub fn fuse_available() -> io::Result<()> {
    fuse::device().map(drop)
}

/// Whether swap is on, by `/proc/swaps`; `None` where there is no such file.
pub fn swap_is_on() -> Option<bool> {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").ok().map(|text| text.lines().count() > 1)
}

/// Why the files of a bundle cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Neither root's nor a user's own namespace is allowed.
    #[error(
        "no private mount namespace: {0} (in a container: grant CAP_SYS_ADMIN, or user namespaces and a seccomp profile that allows unshare)"
    )]
    Namespace(io::Error),
    /// The files do not fit in memory.
    #[error(
        "decrypted, the model takes {needed} bytes of memory, and {available} are available; with /dev/fuse it would be decrypted on demand"
    )]
    Room {
        /// Bytes of all files.
        needed: u64,
        /// Bytes that this process may still take.
        available: u64,
    },
    /// No namespace, and memory files could be swapped.
    #[error("{namespace}; memory files would do instead, but swap is on and they could be written to it: turn swap off")]
    Swap {
        /// Why there is no namespace.
        namespace: Box<MountError>,
    },
    /// No namespace, and the memory files cannot be made.
    #[error("{namespace}; nor can memory files be made in /dev/shm: {reason}")]
    Memory {
        /// Why there is no namespace.
        namespace: Box<MountError>,
        /// Why not.
        reason: String,
    },
    /// Mounting failed.
    #[error("{what} on {path}: {source}")]
    Mount {
        /// What was to be mounted.
        what: &'static str,
        /// Where.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file cannot be read, or is not what was verified.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MountError {
    fn mount(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Mount { what, path: path.clone(), source }
    }
}

/// An empty folder in `parent` that only its owner may enter.
fn own_folder(parent: &Path) -> io::Result<LockedFolder> {
    LockedFolder::create(parent, "coffer-exec-", "", 0o700)
}
