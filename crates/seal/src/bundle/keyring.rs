//! `keys/`: one age file per class of recipients, each with the content key as its payload, and a MAC over them all.

use super::{
    BundleError,
    layout::{BundleId, ContentKey, KEYS, read_bounded, read_marker},
    members::{self, LIST, Member, PASSPHRASE},
};
use crate::{
    Identity, Recipient,
    keys::KeyError,
    place::{self, Kind, Listed, Place},
};
use aws_lc_rs::hmac;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::Path,
};
use zeroize::Zeroizing;

const MAC: &str = "mac";
const MAX_FILES: usize = 32;
const MAX_FILE_LEN: u64 = 4 << 20;

/// How many recipients a bundle has, by kind (`X25519`, `ssh-ed25519`, `ssh-rsa`, `scrypt` …); needs no key.
///
/// Without a key this is what the key files say; opening the bundle proves it.
pub fn recipients(path: &Path) -> Result<BTreeMap<String, usize>, BundleError> {
    let place = place::at(path).map_err(BundleError::io(path))?;
    read_marker(&*place, path)?;
    Ok(Keyring::read(&*place, path)?.kinds())
}

/// The files of `keys/` by name.
#[derive(Default)]
pub(super) struct Keyring(BTreeMap<String, Vec<u8>>);

impl Keyring {
    /// Wraps `key` for every recipient.
    pub(super) fn wrap(key: &ContentKey, id: &BundleId, recipients: &[Recipient]) -> Result<Self, BundleError> {
        Self::default().rewrap(key, id, &[], &members::of(recipients), recipients)
    }

    /// Key files for the list `to` instead of `from`; `added` holds whoever of it is new. Files whose recipients stay are kept.
    pub(super) fn rewrap(
        &self,
        key: &ContentKey,
        id: &BundleId,
        from: &[Member],
        to: &[Member],
        added: &[Recipient],
    ) -> Result<Self, BundleError> {
        if added.iter().filter(|r| r.to_string() == PASSPHRASE).count() > 1 {
            return Err(BundleError::Recipients("a bundle can have one passphrase, not several".into()));
        }
        let before = by_class(from)?;
        let mut files = BTreeMap::new();
        for (class, keys) in by_class(to)? {
            let name = format!("{class}.age");
            let touched = before.get(&class) != Some(&keys) || added.iter().any(|r| r.class() == class);
            let file = match self.0.get(&name).filter(|_| !touched) {
                Some(kept) => kept.clone(),
                None => encrypt(key, &resolve(to.iter().filter(|m| keys.contains(&*m.key)), added)?)?,
            };
            files.insert(name, file);
        }
        if files.is_empty() {
            return Err(BundleError::Recipients("at least one is needed".into()));
        }
        files.insert(LIST.to_owned(), members::seal(to, key, id)?);
        if let Some((name, _)) = files.iter().find(|(_, bytes)| bytes.len() as u64 > MAX_FILE_LEN) {
            return Err(BundleError::Recipients(format!("too many: {KEYS}/{name} would be longer than {MAX_FILE_LEN} bytes")));
        }
        if files.len() >= MAX_FILES {
            return Err(BundleError::Recipients(format!("of too many kinds: at most {} can be", MAX_FILES - 2)));
        }
        files.insert(MAC.to_owned(), mac(key, id, &files).as_ref()[..32].to_vec());
        Ok(Self(files))
    }

    /// The list of recipients; the key was unwrapped, so that the list is authentic.
    pub(super) fn members(&self, path: &Path, key: &ContentKey, id: &BundleId) -> Result<Vec<Member>, BundleError> {
        let missing = || BundleError::Missing { path: path.display().to_string(), part: format!("{KEYS}/{LIST}") };
        members::open(self.0.get(LIST).ok_or_else(missing)?, path, key, id)
    }

    /// Reads the folder `keys` of the bundle at `path`.
    pub(super) fn read(place: &dyn Place, path: &Path) -> Result<Self, BundleError> {
        let folder = path.join(KEYS);
        let listed = place.list(KEYS).map_err(BundleError::io(&folder))?;
        let probing = listed.is_none();
        let mut files = BTreeMap::new();
        for Listed { name, .. } in listed.unwrap_or_else(usual_files) {
            let known = name == MAC || name == LIST || name.strip_suffix(".age").is_some_and(|stem| !stem.is_empty());
            if !known || files.len() >= MAX_FILES {
                return Err(BundleError::Extra { path: path.display().to_string(), part: format!("{KEYS}/{name}") });
            }
            match read_bounded(place, &format!("{KEYS}/{name}"), MAX_FILE_LEN) {
                Err(e) if probing && e.kind() == io::ErrorKind::NotFound => (),
                bytes => drop(files.insert(name.clone(), bytes.map_err(BundleError::io(&folder.join(name)))?)),
            }
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
    pub(super) fn unwrap<'a>(
        &self,
        path: &Path,
        id: &BundleId,
        identities: &'a [Identity],
    ) -> Result<(ContentKey, &'a Identity), BundleError> {
        let (mut damaged, mut no_plugin) = (None, None);
        for (name, bytes) in self.age_files() {
            for identity in identities {
                match decrypt(bytes, identity) {
                    Ok(key) => return Ok((self.authenticate(path, id, key)?, identity)),
                    Err(Refusal::NotMine) => (),
                    Err(Refusal::Key(e)) => no_plugin = Some(e),
                    Err(Refusal::TooMuchWork(log_n)) => {
                        let what = format!("{KEYS}/{name} asks for 2^{log_n} blocks of scrypt work: refused");
                        return Err(BundleError::invalid(path, what));
                    }
                    Err(Refusal::Damaged) => damaged = Some(name),
                }
            }
        }
        match (damaged, no_plugin) {
            (Some(name), _) => Err(BundleError::tampered(path, format!("{KEYS}/{name}"))),
            (None, Some(e)) => Err(e.into()),
            (None, None) => Err(BundleError::NoMatch {
                path: path.display().to_string(),
                tried: identities.len(),
                recipients: self.describe(),
            }),
        }
    }

    fn age_files(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter().filter(|(name, _)| name.ends_with(".age"))
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
        for (_, bytes) in self.age_files() {
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

/// The members' keys by class, in order.
fn by_class(members: &[Member]) -> Result<BTreeMap<String, BTreeSet<&str>>, BundleError> {
    let mut classes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for Member { key, .. } in members {
        let class = if key == PASSPHRASE { PASSPHRASE.to_owned() } else { Recipient::parse(key)?.class() };
        classes.entry(class).or_default().insert(key);
    }
    Ok(classes)
}

/// Members as recipients. A passphrase is in no list and must be among `added`.
pub(super) fn resolve<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    added: &[Recipient],
) -> Result<Vec<Recipient>, BundleError> {
    let find = |member: &Member| match added.iter().find(|r| r.to_string() == member.key) {
        Some(recipient) => Ok(recipient.clone().recovery(member.recovery)),
        None if member.key == PASSPHRASE => {
            let what = "the passphrase is not kept and cannot open a new content key: give it again, or --remove passphrase";
            Err(BundleError::Recipients(what.into()))
        }
        None => Ok(Recipient::parse(&member.key)?.recovery(member.recovery)),
    };
    members.into_iter().map(find).collect()
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

fn encrypt(key: &ContentKey, members: &[Recipient]) -> Result<Vec<u8>, BundleError> {
    let members: Vec<_> = members.iter().map(|r| r.to_age()).collect::<Result<_, _>>()?;
    let refused = |e: &dyn std::fmt::Display| BundleError::Recipients(e.to_string());
    let encryptor = age::Encryptor::with_recipients(members.iter().map(|r| &**r)).map_err(|e| refused(&e))?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(|e| refused(&e))?;
    writer.write_all(key.bytes()).and_then(|()| writer.finish().map(|_| ())).map_err(|e| refused(&e))?;
    Ok(file)
}

/// What `keys/` can hold of names that are known beforehand, for places that list nothing. A plugin's file is not found there, and
/// its absence fails the MAC.
fn usual_files() -> Vec<Listed> {
    let classes = ["x25519.age", "mlkem768x25519.age", "ssh.age", "passphrase.age", LIST, MAC];
    classes.map(|name| Listed { name: name.to_owned(), kind: Kind::File(0) }).into()
}

enum Refusal {
    NotMine,
    Key(KeyError),
    Damaged,
    TooMuchWork(u8),
}

fn decrypt(file: &[u8], identity: &Identity) -> Result<ContentKey, Refusal> {
    let decryptor = age::Decryptor::new_buffered(file).map_err(|_| Refusal::Damaged)?;
    let from_passphrase = decryptor.is_scrypt();
    let identity = identity.to_age().map_err(Refusal::Key)?;
    let mut payload = decryptor.decrypt(std::iter::once(&*identity)).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys => Refusal::NotMine,
        age::DecryptError::DecryptionFailed if from_passphrase => Refusal::NotMine,
        age::DecryptError::ExcessiveWork { required, .. } => Refusal::TooMuchWork(required),
        e @ age::DecryptError::Plugin(_) => Refusal::Key(KeyError::Plugin(e.to_string())),
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
