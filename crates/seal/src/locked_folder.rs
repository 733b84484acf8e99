//! Folders for as long as a run lasts, which a later run removes if this one is killed.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// A folder `PREFIX`, eight hex digits, `SUFFIX`; removed when this is dropped, unless it was renamed. It is locked as long as the
/// process lives: one that nobody holds was left by a run that was killed, and the next one with the same prefix and suffix removes it.
pub struct LockedFolder {
    path: PathBuf,
    renamed: bool,
    _lock: File,
}

impl LockedFolder {
    /// An empty one in `parent`, after those that killed runs left there are removed. `mode` is who may do what in it, before the umask.
    ///
    /// # Errors
    /// Fails as the system does.
    pub fn create(parent: &Path, prefix: &str, suffix: &str, mode: u32) -> io::Result<Self> {
        remove_left_behind(parent, prefix, suffix);
        loop {
            let mut random = [0; 4];
            getrandom::fill(&mut random).map_err(|_| io::Error::other("no random bytes for a name"))?;
            let path = parent.join(format!("{prefix}{}{suffix}", hex::encode(random)));
            DirBuilder::new().mode(mode).create(&path)?;
            let lock = File::open(&path)?;
            // Where there are no locks, nobody removes it either.
            let _ = lock.lock();
            if is_still(&path, &lock) {
                return Ok(Self { path, renamed: false, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another name, under which it stays.
    ///
    /// # Errors
    /// Fails as the system does; the folder is removed then.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for LockedFolder {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the folders of this kind that nobody holds. What cannot be looked at or removed stays.
fn remove_left_behind(parent: &Path, prefix: &str, suffix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let random = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn create(parent: &Path) -> LockedFolder {
        LockedFolder::create(parent, "run-", ".tmp", 0o700).unwrap()
    }

    #[test]
    fn what_nobody_holds_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let others = ["run-left.tmp", "run-0123abcd", "0123abcd.tmp", "ruin-0123abcd.tmp", "run-0123abcde.tmp"];
        [&["run-0123abcd.tmp"], &others[..]].concat().iter().for_each(|name| fs::create_dir(at(name)).unwrap());
        symlink("/proc/self/fd/9", at("run-0123abcd.tmp").join("link")).unwrap();
        fs::write(at("run-89abcdef.tmp"), "a file").unwrap();
        let held = create(parent.path());
        assert!(!at("run-0123abcd.tmp").exists());
        assert!(others.iter().all(|name| at(name).exists()) && at("run-89abcdef.tmp").exists());
        let next = create(parent.path());
        assert!(held.path().exists() && next.path().exists());
        assert_eq!(held.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_renamed_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, name) = (create(parent.path()), parent.path().join("name"));
        fs::write(folder.path().join("file"), "content").unwrap();
        folder.rename(&name).unwrap();
        assert_eq!(fs::read(name.join("file")).unwrap(), b"content");
        let refused = create(parent.path());
        let path = refused.path().to_owned();
        assert!(refused.rename(&name).is_err() && !path.exists());
    }
}
