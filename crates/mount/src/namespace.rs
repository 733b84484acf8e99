//! A mount namespace of our own: what is mounted in it, no process outside sees.

use crate::{MountError, own_folder};
use coffer_seal::LockedFolder;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Proof that this process has left its parent's mount namespace for one of its own.
pub struct Namespace(());

impl Namespace {
    /// Leaves the mount namespace, and where that alone is not allowed, the user namespace too; user and group stay what
    /// they are. Processes started later inherit both. Must be called while the process has one thread, and while it may
    /// still write to its `/proc/self` (before `PR_SET_DUMPABLE` is cleared).
    ///
    /// # Errors
    /// Returns [`MountError::Namespace`] if the system allows neither.
    pub fn enter() -> Result<Self, MountError> {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .or_else(|_| own_user_namespace())
            // What is mounted outside still arrives here, and what is mounted here stays here.
            .and_then(|()| Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?))
            .map(|()| Self(()))
            .map_err(MountError::Namespace)
    }

    /// An empty directory to mount on, which is removed in the end.
    pub(crate) fn mount_point(&self) -> Result<MountPoint, MountError> {
        let parent = std::env::temp_dir();
        let directory = own_folder(&parent).map_err(MountError::mount("a directory", &parent))?;
        Ok(MountPoint { directory })
    }
}

/// One user, mapped to itself: enough to mount, and the command sees its files as its own.
fn own_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    // user_namespaces(7): without privilege the group map can be written only once setgroups is denied.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// A directory on which something is mounted until this is dropped.
pub(crate) struct MountPoint {
    directory: LockedFolder,
}

impl MountPoint {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Mounts a file system of `kind`; nothing on it is a device or gains privilege.
    pub(crate) fn mount(&self, kind: &str, flags: MsFlags, data: &str) -> io::Result<()> {
        let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(Some("coffer"), self.path(), Some(kind), flags, Some(data))?)
    }

    /// Makes what is mounted read-only.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(None::<&str>, self.path(), None::<&str>, flags, None::<&str>)?)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // Detached, not refused, where a process that the command left behind still has a file open.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}
