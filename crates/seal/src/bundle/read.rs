//! Reading a bundle: nothing is believed before it is authenticated, nothing is decrypted that is not asked for.

use super::{
    BundleError, Progress,
    data::Data,
    keyring::Keyring,
    layout::{BundleId, ContentKey, DATA, KEYS, MANIFEST, MARKER, aad, has_marker, read_bounded, read_marker},
    manifest::{self, Entry, Manifest},
    members::Member,
    pipeline,
    records::{RecordIndex, RecordKind},
    sealed_file::SealedFile,
    unpack::Unpacked,
    write::BundleWriter,
};
use crate::{
    Identity, floe,
    floor::Refusal,
    memory,
    place::{self, Kind, Place},
};
use aws_lc_rs::digest;
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

/// An opened bundle.
pub struct Bundle {
    data: Arc<Data>,
    id: BundleId,
    epoch: u64,
    members: Vec<Member>,
    files: Vec<Placed>,
    by_name: HashMap<String, usize>,
}

/// Told of a file, a part of it, and whether that is its last.
type OnPart<'a> = &'a mut dyn FnMut(&Placed, &[u8], bool) -> Result<(), BundleError>;

/// A file, and where it begins in the data stream's plaintext.
struct Placed {
    entry: Entry,
    at: u64,
}

impl Bundle {
    /// Whether `path` looks like a bundle; needs no key.
    pub fn is_bundle(path: &Path) -> bool {
        has_marker(path)
    }

    /// Unwraps the content key with the first identity that fits and opens the manifest.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, BundleError> {
        Self::from_opened(path, unlock(path, identities)?)
    }

    /// Opens a bundle whose content key is at hand; who else can is not asked.
    pub(super) fn with_key(path: &Path, key: &ContentKey, id: BundleId) -> Result<Self, BundleError> {
        let place = place::at(path).map_err(BundleError::io(path))?;
        let manifest = open_manifest(&*place, path, key, &id)?;
        Self::of(path, &*place, (key, id), Vec::new(), manifest)
    }

    pub(super) fn from_opened(path: &Path, opened: Opened) -> Result<Self, BundleError> {
        let Opened { place, id, key, members, manifest, .. } = opened;
        Self::of(path, &*place, (&key, id), members, manifest)
    }

    fn of(
        path: &Path,
        place: &dyn Place,
        (key, id): (&ContentKey, BundleId),
        members: Vec<Member>,
        manifest: Manifest,
    ) -> Result<Self, BundleError> {
        let data = Arc::new(Data::open(place, path, key, &id, &manifest)?);
        memory::lock(&data.cipher);
        let mut at = 0;
        let place = |entry: Entry| {
            let begin = at;
            at += entry.size;
            Placed { entry, at: begin }
        };
        let files: Vec<_> = manifest.files.into_iter().map(place).collect();
        let by_name = files.iter().enumerate().map(|(at, file)| (file.entry.name.clone(), at)).collect();
        Ok(Self { data, id, epoch: manifest.epoch, members, files, by_name })
    }

    /// Its public name, 32 hex digits; another one after each rotation.
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// Who can open it.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How often the content was encrypted anew under another key, from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Names and plaintext sizes, in the order in which they were added.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.files.iter().map(|file| (file.entry.name.clone(), file.entry.size)).collect()
    }

    /// SHA-256 of a file's plaintext, as the sealer computed it.
    pub fn sha256(&self, name: &str) -> Result<[u8; 32], BundleError> {
        self.find(name).map(|file| file.entry.sha256)
    }

    /// One file, for random access.
    pub fn file(&self, name: &str) -> Result<SealedFile, BundleError> {
        self.find(name).map(|file| self.sealed(file))
    }

    /// The index of a file's records, if it has one of a kind that is known here.
    pub fn records(&self, name: &str) -> Result<Option<RecordIndex>, BundleError> {
        let file = self.find(name)?;
        let Some(records) = &file.entry.records else { return Ok(None) };
        let Some(kind) = RecordKind::of_manifest(&records.kind) else { return Ok(None) };
        let invalid = |what: String| BundleError::invalid(self.data.path(), format!("{name}: the index of its records: {what}"));
        let (size, end) = (records.size, records.at.checked_add(records.size));
        if records.at < self.total() || end.is_none_or(|end| end > self.data.content_len()) {
            return Err(invalid(format!("{size} bytes at {} lie outside their place", records.at)));
        }
        if size > RecordIndex::max_len(file.entry.size) {
            return Err(invalid(format!("{size} bytes are too many")));
        }
        let mut bytes = vec![0; size as usize];
        let place = SealedFile::new(self.data.clone(), name, records.at, size);
        place.read_exact_at(0, &mut bytes)?;
        RecordIndex::parse(kind, records.count, file.entry.size, &bytes).map(Some).map_err(invalid)
    }

    /// Decrypts everything into the new folder `target`, which appears whole or not at all. Needs a few MB of memory.
    pub fn extract(&self, target: &Path, progress: Progress<'_>) -> Result<(), BundleError> {
        let total = self.total();
        let mut unpacked = Unpacked::create(target)?;
        let content = total.div_ceil(self.data.plain_len() as u64);
        self.each_part(content, &mut |file, part, ends| {
            unpacked.write(&file.entry.name, part, ends)?;
            progress(file.at + unpacked.written, total);
            Ok(())
        })?;
        unpacked.finish()
    }

    /// Adds all files to another bundle, with the indexes of their records.
    pub(super) fn copy_into(&self, writer: &mut BundleWriter, progress: Progress<'_>) -> Result<(), BundleError> {
        let (total, mut done) = (self.total(), 0);
        self.each_part(total.div_ceil(self.data.plain_len() as u64), &mut |file, part, ends| {
            done += part.len() as u64;
            progress(done, total);
            writer.add_part(&file.entry.name, part, ends)
        })?;
        for (at, file) in self.files.iter().enumerate() {
            if let Some(index) = self.records(&file.entry.name)? {
                writer.set_records(at, index);
            }
        }
        Ok(())
    }

    /// Name of the first file that is not as in `entries`.
    pub(super) fn first_difference(&self, entries: &[Entry]) -> Option<&str> {
        let same = |(file, entry): (&Placed, &Entry)| file.entry.sha256 == entry.sha256 && file.entry.name == entry.name;
        let at = self.files.iter().zip(entries).position(|pair| !same(pair))?;
        Some(&self.files[at].entry.name)
    }

    /// Authenticates every segment and compares every file's digest with the manifest.
    pub fn verify(&self, progress: Progress<'_>) -> Result<(), BundleError> {
        let total = self.total();
        let mut done = 0;
        let mut context = digest::Context::new(&digest::SHA256);
        self.each_part(self.data.segments(), &mut |file, part, ends| {
            context.update(part);
            done += part.len() as u64;
            progress(done, total);
            if !ends {
                return Ok(());
            }
            let whole = std::mem::replace(&mut context, digest::Context::new(&digest::SHA256)).finish();
            if whole.as_ref() != file.entry.sha256 {
                let what = format!("{}: SHA-256 differs from the one in the manifest", file.entry.name);
                return Err(BundleError::invalid(self.data.path(), what));
            }
            Ok(())
        })
    }

    /// Decrypts the first `segments` segments and hands on the files in order, each in parts of which the last `ends` it.
    fn each_part(&self, segments: u64, each: OnPart<'_>) -> Result<(), BundleError> {
        let mut at = 0;
        let mut files = self.files.iter().peekable();
        let mut cut = |mut piece: &[u8]| {
            while let Some(file) = files.peek() {
                let missing = file.at + file.entry.size - at;
                let (part, rest) = piece.split_at(missing.min(piece.len() as u64) as usize);
                let ends = part.len() as u64 == missing;
                if part.is_empty() && !ends {
                    break;
                }
                each(file, part, ends)?;
                at += part.len() as u64;
                piece = rest;
                if ends {
                    files.next();
                }
            }
            Ok(())
        };
        cut(&[])?; // empty files, if there is nothing else
        pipeline::in_order(&self.data, segments, &mut cut)
    }

    fn total(&self) -> u64 {
        self.files.iter().map(|file| file.entry.size).sum()
    }

    #[cfg(test)]
    pub(super) fn segments_opened(&self) -> u64 {
        self.data.opened.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn find(&self, name: &str) -> Result<&Placed, BundleError> {
        let missing = || BundleError::NoFile { path: self.data.path().display().to_string(), name: name.into() };
        self.by_name.get(name).and_then(|at| self.files.get(*at)).ok_or_else(missing)
    }

    fn sealed(&self, file: &Placed) -> SealedFile {
        SealedFile::new(self.data.clone(), &file.entry.name, file.at, file.entry.size)
    }
}

/// What an identity gives access to.
pub(super) struct Opened {
    place: Arc<dyn Place>,
    pub(super) id: BundleId,
    pub(super) key: ContentKey,
    pub(super) keyring: Keyring,
    pub(super) members: Vec<Member>,
    pub(super) manifest: Manifest,
}

/// Everything but the data: unwraps the key with the first identity that fits, opens what is sealed with it, and refuses an epoch
/// that is older than one that this identity has seen.
pub(super) fn unlock(path: &Path, identities: &[Identity]) -> Result<Opened, BundleError> {
    identities.iter().for_each(memory::lock);
    let place = place::at(path).map_err(BundleError::io(path))?;
    let id = read_marker(&*place, path)?;
    check_parts(&*place, path)?;
    let keyring = Keyring::read(&*place, path)?;
    let (key, identity) = keyring.unwrap(path, &id, identities)?;
    let members = keyring.members(path, &key, &id)?;
    let manifest = open_manifest(&*place, path, &key, &id)?;
    let refused = |refusal| match refusal {
        Refusal::Older { seen, list } => {
            let (path, list) = (path.display().to_string(), list.display().to_string());
            BundleError::Rollback { path, epoch: manifest.epoch, seen, list }
        }
        Refusal::Unreadable(list, source) => BundleError::Io { path: list.display().to_string(), source },
    };
    identity.floor().map_or(Ok(()), |floor| floor.pass(&manifest.lineage, manifest.epoch)).map_err(refused)?;
    Ok(Opened { place, id, key, keyring, members, manifest })
}

/// Exactly the four parts, and none of them a link. Where nothing can be listed, each part's absence shows when it is opened.
fn check_parts(place: &dyn Place, path: &Path) -> Result<(), BundleError> {
    let bundle = || path.display().to_string();
    let mut missing = BTreeSet::from([MARKER, KEYS, MANIFEST, DATA]);
    let Some(listed) = place.list("").map_err(BundleError::io(path))? else { return Ok(()) };
    for entry in listed {
        let right = if entry.name == KEYS { entry.kind == Kind::Folder } else { matches!(entry.kind, Kind::File(_)) };
        if !missing.remove(entry.name.as_str()) || !right {
            return Err(BundleError::Extra { path: bundle(), part: entry.name });
        }
    }
    match missing.first() {
        Some(part) => Err(BundleError::Missing { path: bundle(), part: (*part).into() }),
        None => Ok(()),
    }
}

fn open_manifest(place: &dyn Place, path: &Path, key: &ContentKey, id: &BundleId) -> Result<Manifest, BundleError> {
    let most = manifest::MAX_LEN + manifest::MAX_LEN / 1024;
    let sealed = read_bounded(place, MANIFEST, most).map_err(BundleError::io(&path.join(MANIFEST)))?;
    let json = floe::open(&key.derive("stream"), &aad(id, MANIFEST), &sealed).map_err(BundleError::floe(path, MANIFEST))?;
    Manifest::parse(&json).map_err(|what| BundleError::invalid(path, what))
}
