//! `keys/`: one age file per class of recipients, each with the content key as its payload, and a MAC over them all.

use super::{
    BundleError,
    layout::{BundleId, ContentKey, KEYS, read_bounded, read_marker},
};
use crate::{Identity, Recipient, keys::Class};
use aws_lc_rs::hmac;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::Path,
};
use zeroize::Zeroizing;

const MAC: &str = "mac";
const MAX_FILES: usize = 32;
const MAX_FILE_LEN: u64 = 1 << 20;

/// How many recipients a bundle has, by kind (`X25519`, `ssh-ed25519`, `ssh-rsa`, `scrypt` …); needs no key.
///
/// Without a key this is what the key files say; opening the bundle proves it.
pub fn recipients(path: &Path) -> Result<BTreeMap<String, usize>, BundleError> {
    read_marker(path)?;
    Ok(Keyring::read(path)?.kinds())
}

/// The files of `keys/` by name.
pub(super) struct Keyring(BTreeMap<String, Vec<u8>>);

impl Keyring {
    /// Wraps `key` for every recipient.
    pub(super) fn wrap(key: &ContentKey, id: &BundleId, recipients: &[Recipient]) -> Result<Self, BundleError> {
        let mut classes: BTreeMap<Class, Vec<&Recipient>> = BTreeMap::new();
        recipients.iter().for_each(|r| classes.entry(r.class()).or_default().push(r));
        match classes.get(&Class::Passphrase).map_or(0, Vec::len) {
            _ if classes.is_empty() => return Err(BundleError::Recipients("at least one is needed".into())),
            0 | 1 => (),
            _ => return Err(BundleError::Recipients("a bundle can have one passphrase, not several".into())),
        }
        let mut files = BTreeMap::new();
        for (class, members) in classes {
            files.insert(file_name(class).to_owned(), encrypt(key, &members)?);
        }
        files.insert(MAC.to_owned(), mac(key, id, &files).as_ref()[..32].to_vec());
        Ok(Self(files))
    }

    /// Reads the folder `keys` of the bundle at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, BundleError> {
        let folder = path.join(KEYS);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(BundleError::io(&folder))? {
            let entry = entry.map_err(BundleError::io(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = name == MAC || name.strip_suffix(".age").is_some_and(|stem| !stem.is_empty());
            if !known || files.len() >= MAX_FILES {
                return Err(BundleError::Extra { path: path.display().to_string(), part: format!("{KEYS}/{name}") });
            }
            let bytes = read_bounded(&entry.path(), MAX_FILE_LEN).map_err(BundleError::io(&entry.path()))?;
            files.insert(name, bytes);
        }
        Ok(Self(files))
    }

    /// Writes the files into `folder`, which is empty, and syncs them.
    pub(super) fn write(&self, folder: &Path) -> Result<(), BundleError> {
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
            written.map_err(BundleError::io(&path))?;
        }
        Ok(())
    }

    /// Unwraps the content key with the first identity that fits, and checks all key files with it.
    pub(super) fn unwrap(&self, path: &Path, id: &BundleId, identities: &[Identity]) -> Result<ContentKey, BundleError> {
        let mut damaged = None;
        for (name, bytes) in self.0.iter().filter(|(name, _)| *name != MAC) {
            for identity in identities {
                match decrypt(bytes, identity) {
                    Ok(key) => return self.authenticate(path, id, key),
                    Err(Refusal::NotMine) => (),
                    Err(Refusal::TooMuchWork(log_n)) => {
                        let what = format!("{KEYS}/{name} asks for 2^{log_n} blocks of scrypt work: refused");
                        return Err(BundleError::invalid(path, what));
                    }
                    Err(Refusal::Damaged) => damaged = Some(name),
                }
            }
        }
        match damaged {
            Some(name) => Err(BundleError::tampered(path, format!("{KEYS}/{name}"))),
            None => Err(BundleError::NoMatch {
                path: path.display().to_string(),
                tried: identities.len(),
                recipients: self.describe(),
            }),
        }
    }

    fn authenticate(&self, path: &Path, id: &BundleId, key: ContentKey) -> Result<ContentKey, BundleError> {
        let part = |name: &str| format!("{KEYS}/{name}");
        let tag = self.0.get(MAC).ok_or_else(|| BundleError::Missing { path: path.display().to_string(), part: part(MAC) })?;
        let expected = mac(&key, id, &self.0);
        match bool::from(subtle::ConstantTimeEq::ct_eq(&expected.as_ref()[..32], &tag[..])) {
            true => Ok(key),
            false => Err(BundleError::tampered(path, format!("{KEYS} (a key file, or their list)"))),
        }
    }

    fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for (_, bytes) in self.0.iter().filter(|(name, _)| *name != MAC) {
            stanza_kinds(bytes).for_each(|kind| *kinds.entry(kind).or_default() += 1);
        }
        kinds
    }

    fn describe(&self) -> String {
        let kinds = self.kinds();
        match kinds.is_empty() {
            true => "no recipient at all".into(),
            false => kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", "),
        }
    }
}

fn file_name(class: Class) -> &'static str {
    match class {
        Class::X25519 => "x25519.age",
        Class::Ssh => "ssh.age",
        Class::Passphrase => "passphrase.age",
    }
}

/// HMAC-SHA-384 over the bundle's id and all key files but the MAC itself, each with its lengths.
fn mac(key: &ContentKey, id: &BundleId, files: &BTreeMap<String, Vec<u8>>) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA384, &*key.derive("keys")));
    context.update(id);
    for (name, bytes) in files.iter().filter(|(name, _)| *name != MAC) {
        for part in [name.as_bytes(), bytes] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    context.sign()
}

fn encrypt(key: &ContentKey, members: &[&Recipient]) -> Result<Vec<u8>, BundleError> {
    let members: Vec<_> = members.iter().map(|r| r.to_age()).collect();
    let refused = |e: &dyn std::fmt::Display| BundleError::Recipients(e.to_string());
    let encryptor = age::Encryptor::with_recipients(members.iter().map(|r| &**r)).map_err(|e| refused(&e))?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(|e| refused(&e))?;
    writer.write_all(key.bytes()).and_then(|()| writer.finish().map(|_| ())).map_err(|e| refused(&e))?;
    Ok(file)
}

enum Refusal {
    NotMine,
    Damaged,
    TooMuchWork(u8),
}

fn decrypt(file: &[u8], identity: &Identity) -> Result<ContentKey, Refusal> {
    let decryptor = age::Decryptor::new_buffered(file).map_err(|_| Refusal::Damaged)?;
    let from_passphrase = decryptor.is_scrypt();
    let mut payload = decryptor.decrypt(std::iter::once(&*identity.to_age())).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys => Refusal::NotMine,
        age::DecryptError::DecryptionFailed if from_passphrase => Refusal::NotMine,
        age::DecryptError::ExcessiveWork { required, .. } => Refusal::TooMuchWork(required),
        _ => Refusal::Damaged,
    })?;
    let mut key = Zeroizing::new([0; 32]);
    payload.read_exact(&mut *key).map_err(|_| Refusal::Damaged)?;
    match payload.read(&mut [0]) {
        Ok(0) => Ok(ContentKey::new(key)),
        _ => Err(Refusal::Damaged),
    }
}

/// The first word of every stanza in an age header, without those that are only there to keep readers tolerant.
fn stanza_kinds(file: &[u8]) -> impl Iterator<Item = String> {
    let lines = file.split(|b| *b == b'\n').take_while(|line| !line.starts_with(b"---"));
    let words = lines.filter_map(|line| line.strip_prefix(b"-> ")?.split(|b| *b == b' ').next());
    words
        .filter(|word| !word.ends_with(b"-grease"))
        .map(|word| String::from_utf8_lossy(word).chars().take(40).flat_map(char::escape_default).collect())
}
