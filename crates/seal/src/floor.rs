//! The newest epoch of each bundle that an identity has opened, kept beside its file, so that an older one is noticed when somebody
//! puts it back (docs/spec/bundle.md, "Rollback").

use crate::keys::Prompt;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Largest file that is read: about 20,000 bundles.
const MAX_LEN: u64 = 1 << 20;

/// `KEY.seen` beside the identity file `KEY`.
pub(crate) struct Floor {
    identity: PathBuf,
    prompt: Arc<dyn Prompt>,
    /// Whether an older epoch is only mentioned.
    lenient: bool,
}

/// Why a bundle is not to be used.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A newer epoch was seen.
    Older { seen: u64, list: PathBuf },
    /// The file of floors says nothing that can be understood.
    Unreadable(PathBuf, io::Error),
}

impl Floor {
    pub(crate) fn beside(identity: &Path, prompt: Arc<dyn Prompt>) -> Self {
        Self { identity: identity.to_owned(), prompt, lenient: false }
    }

    /// The same, for who knows that the bundle is older.
    pub(crate) fn lenient(&self) -> Self {
        Self { identity: self.identity.clone(), prompt: self.prompt.clone(), lenient: true }
    }

    /// Compares `epoch` with the newest that was seen of `lineage`, and records it if it is newer. Where nothing can be
    /// written, the bundle opens all the same and the user is told.
    pub(crate) fn pass(&self, lineage: &[u8; 16], epoch: u64) -> Result<(), Refusal> {
        let list = self.list();
        let floors = read(&list).map_err(|e| Refusal::Unreadable(list.clone(), e))?;
        match floors.get(lineage) {
            Some(seen) if *seen > epoch && !self.lenient => return Err(Refusal::Older { seen: *seen, list }),
            Some(seen) if *seen >= epoch => return Ok(()),
            _ => (),
        }
        if let Err(e) = self.record(&list, lineage, epoch) {
            let list = list.display();
            self.prompt.tell(&format!("warning: {list}: {e}; an older version of this bundle will not be noticed with this key"));
        }
        Ok(())
    }

    fn list(&self) -> PathBuf {
        let mut name = self.identity.file_name().unwrap_or_default().to_owned();
        name.push(".seen");
        self.identity.with_file_name(name)
    }

    /// Reads once more under a lock, which is the identity file's own, and puts the new list in place of the old one.
    fn record(&self, list: &Path, lineage: &[u8; 16], epoch: u64) -> io::Result<()> {
        let lock = File::open(&self.identity)?;
        // Where locks are not to be had, two processes at once can lose one of two records.
        let _ = lock.lock();
        let mut floors = read(list)?;
        let seen = floors.entry(*lineage).or_default();
        *seen = epoch.max(*seen);
        let mut text = String::new();
        for (lineage, epoch) in &floors {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{} {epoch}", hex::encode(lineage));
        }
        let mut temporary = list.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, list)).inspect_err(
            |_| {
                let _ = fs::remove_file(&temporary);
            },
        )
    }
}

/// `LINEAGE EPOCH`, one a line; nothing where there is no file.
fn read(list: &Path) -> io::Result<BTreeMap<[u8; 16], u64>> {
    let mut text = String::new();
    match File::open(list) {
        Ok(file) => file.take(MAX_LEN + 1).read_to_string(&mut text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {MAX_LEN} bytes")));
    }
    let parse = |line: &str| {
        let (lineage, epoch) = line.split_once(' ')?;
        let mut id = [0; 16];
        hex::decode_to_slice(lineage, &mut id).ok()?;
        Some((id, epoch.parse().ok()?))
    };
    let lines = text.lines().enumerate();
    let bad = |at: usize| io::Error::new(io::ErrorKind::InvalidData, format!("line {} is no record of an epoch", at + 1));
    lines.map(|(at, line)| parse(line).ok_or_else(|| bad(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NoPrompt;
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicUsize, Ordering},
    };

    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Prompt for Told {
        fn secret(&self, _: &str) -> Option<String> {
            None
        }

        fn tell(&self, _: &str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn older_epochs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        fs::write(&key, "").unwrap();
        let floor = Floor::beside(&key, Arc::new(NoPrompt));
        for (lineage, epoch) in [(1, 3), (2, 1), (1, 3), (1, 5)] {
            floor.pass(&[lineage; 16], epoch).unwrap();
        }
        assert!(matches!(floor.pass(&[1; 16], 4), Err(Refusal::Older { seen: 5, .. })));
        floor.lenient().pass(&[1; 16], 4).unwrap();
        let list = folder.path().join("key.seen");
        assert_eq!(fs::read_to_string(&list).unwrap(), format!("{} 5\n{} 1\n", "01".repeat(16), "02".repeat(16)));
        assert_eq!(fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_told_and_what_cannot_be_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(Told::default());
        // No identity file, so nothing can be written beside it.
        let floor = Floor::beside(&folder.path().join("nowhere/key"), told.clone());
        floor.pass(&[1; 16], 1).unwrap();
        assert_eq!(told.0.load(Ordering::Relaxed), 1);
        let floor = Floor::beside(&folder.path().join("key"), told);
        for bad in [b"x\n".to_vec(), b"01 1\n".to_vec(), vec![b'0'; 1 << 21], vec![0xff]] {
            fs::write(folder.path().join("key.seen"), bad).unwrap();
            assert!(matches!(floor.pass(&[1; 16], 1), Err(Refusal::Unreadable(..))));
        }
    }
}
