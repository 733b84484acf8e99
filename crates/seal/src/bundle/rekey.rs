//! Other recipients for a bundle that exists: by new key files alone, or by encrypting everything anew.

use super::{
    Bundle, BundleError, BundleWriter, Member, Progress,
    keyring::resolve,
    layout::{ContentKey, KEYS, SEGMENT_LEN, random},
    members::{self, PASSPHRASE},
    read::unlock,
    unfinished::Unfinished,
};
use crate::{Identity, Recipient};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// What is to change about who can open a bundle.
#[derive(Default)]
pub struct Changes {
    /// Who comes.
    pub add: Vec<Recipient>,
    /// Who goes: public keys as the bundle's list has them (comments left out), or `passphrase`.
    pub remove: Vec<String>,
    /// Whether a recovery recipient may be among those who go.
    pub remove_recovery: bool,
}

/// Rewrites `keys/` and nothing else: it is there as it was or as it is to be, whenever the power goes.
/// Who was removed and kept the content key can still read this content; see [`rotate`].
pub fn rekey(path: &Path, identities: &[Identity], changes: &Changes) -> Result<Vec<Member>, BundleError> {
    let (path, _lock) = claim(path)?;
    let opened = unlock(&path, identities)?;
    let members = changes.apply(&path, &opened.members)?;
    let keyring = opened.keyring.rewrap(&opened.key, &opened.id, &opened.members, &members, &changes.add)?;
    let folder = Unfinished::beside(&path)?;
    keyring.write(folder.path())?;
    folder.exchange(&path.join(KEYS))?;
    Ok(members)
}

/// Encrypts everything anew under another content key and with the next epoch, into a bundle beside that takes the old one's
/// place when it is whole; the old one is removed. Digests are compared on the way.
pub fn rotate(
    path: &Path,
    identities: &[Identity],
    changes: &Changes,
    progress: Progress<'_>,
) -> Result<Vec<Member>, BundleError> {
    let (path, _lock) = claim(path)?;
    let opened = unlock(&path, identities)?;
    let members = changes.apply(&path, &opened.members)?;
    let recipients = resolve(&members, &changes.add)?;
    let (lineage, epoch) = (opened.manifest.lineage, opened.manifest.epoch);
    let epoch = epoch.checked_add(1).ok_or_else(|| BundleError::invalid(&path, "the manifest: the epoch cannot rise"))?;
    let bundle = Bundle::from_opened(&path, opened)?;
    let folder = Unfinished::beside(&path)?;
    let mut writer = BundleWriter::in_folder(folder, &recipients, ContentKey::generate()?, random()?, SEGMENT_LEN)?;
    writer.succeed(lineage, epoch);
    bundle.copy_into(&mut writer, progress)?;
    let (folder, entries) = writer.complete()?.into_parts();
    if let Some(name) = bundle.first_difference(&entries) {
        return Err(BundleError::invalid(&path, format!("{name}: SHA-256 differs from the one in the manifest")));
    }
    folder.exchange(&path)?;
    Ok(members)
}

impl Changes {
    /// The list as it is to be.
    fn apply(&self, path: &Path, old: &[Member]) -> Result<Vec<Member>, BundleError> {
        let refused = |what: String| BundleError::Recipients(format!("{}: {what}", path.display()));
        let mut members = old.to_vec();
        for text in &self.remove {
            let key = canonical(text);
            let at = members.iter().position(|m| m.key == key);
            let at = at.ok_or_else(|| refused(format!("`{key:.60}` is none of its {} recipients", old.len())))?;
            if members[at].recovery && !self.remove_recovery {
                return Err(refused(format!(
                    "`{key:.60}` is there for recovery, by policy; say --remove-recovery if it must go"
                )));
            }
            members.remove(at);
        }
        for new in members::of(&self.add) {
            match members.iter_mut().find(|m| m.key == new.key) {
                Some(member) if new.key != PASSPHRASE => member.recovery |= new.recovery,
                Some(_) => return Err(refused("it has a passphrase; remove that one first (--remove passphrase)".into())),
                None => members.push(new),
            }
        }
        if members.is_empty() {
            return Err(refused("nobody would be left who can open it".into()));
        }
        Ok(members)
    }
}

/// An SSH key without its comment, and any other key as it is.
fn canonical(text: &str) -> String {
    Recipient::parse(text).map_or_else(|_| text.trim().to_owned(), |recipient| recipient.to_string())
}

/// The bundle's true path, locked against another run that changes it; what a killed one left beside it is removed.
fn claim(path: &Path) -> Result<(PathBuf, File), BundleError> {
    let path = fs::canonicalize(path).map_err(BundleError::io(path))?;
    let folder = File::open(&path).map_err(BundleError::io(&path))?;
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => Err(BundleError::Busy(path.display().to_string())),
        // Where there are no locks, two runs at once are the user's to avoid.
        Ok(()) | Err(TryLockError::Error(_)) => Ok((path, folder)),
    }
}
