//! Reading a bundle: nothing is believed before it is authenticated, nothing is decrypted that is not asked for.

use super::{
    BundleError, Progress,
    keyring::Keyring,
    layout::{BundleId, ContentKey, DATA, KEYS, MANIFEST, MARKER, aad, has_marker, read_bounded, read_marker},
    manifest::{self, Entry, Manifest},
    members::Member,
    unfinished::{Unfinished, sync_folder},
    write::BundleWriter,
};
use crate::{
    Identity,
    floe::{self, Cipher, HEADER_LEN, Layout},
    floor::Refusal,
    memory,
};
use aws_lc_rs::digest;
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use zeroize::Zeroizing;

/// Plaintext that `extract` and `verify` hold at a time, in bytes.
const CHUNK: usize = 4 << 20;

/// An opened bundle.
pub struct Bundle {
    data: Arc<Data>,
    id: BundleId,
    epoch: u64,
    members: Vec<Member>,
    files: Vec<Placed>,
    by_name: HashMap<String, usize>,
}

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

    pub(super) fn from_opened(path: &Path, opened: Opened) -> Result<Self, BundleError> {
        let Opened { id, key, members, manifest, .. } = opened;
        let data = Arc::new(Data::open(path, &key, &id, &manifest)?);
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

    /// One file, for random access. Cheap to clone behind an `Arc`; holds no plaintext beyond one segment.
    pub fn file(&self, name: &str) -> Result<SealedFile, BundleError> {
        self.find(name).map(|file| self.sealed(file))
    }

    /// Decrypts everything into the new folder `target`, which appears whole or not at all.
    pub fn extract(&self, target: &Path, progress: Progress<'_>) -> Result<(), BundleError> {
        let folder = Unfinished::create(target)?;
        let total = self.files.iter().map(|file| file.entry.size).sum();
        let mut done = 0;
        let mut buffer = self.chunk();
        let mut folders = BTreeSet::new();
        for file in &self.files {
            let path = folder.path.join(&file.entry.name);
            let parent = path.parent().unwrap_or(&folder.path);
            fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
            folders.extend(parent.ancestors().take_while(|p| *p != folder.path).map(Path::to_owned));
            let mut out = File::create_new(&path).map_err(BundleError::io(&path))?;
            self.sealed(file).read_chunks(&mut buffer, &mut |chunk| {
                done += chunk.len() as u64;
                progress(done, total);
                out.write_all(chunk).map_err(BundleError::io(&path))
            })?;
            out.sync_all().map_err(BundleError::io(&path))?;
        }
        folders.iter().rev().try_for_each(|path| sync_folder(path))?;
        folder.rename()
    }

    /// Adds all files to another bundle.
    pub(super) fn copy_into(&self, writer: &mut BundleWriter, progress: Progress<'_>) -> Result<(), BundleError> {
        let total = self.files.iter().map(|file| file.entry.size).sum();
        let mut done = 0;
        let mut buffer = self.chunk();
        for file in &self.files {
            let mut out = writer.stream(&file.entry.name)?;
            self.sealed(file).read_chunks(&mut buffer, &mut |chunk| {
                done += chunk.len() as u64;
                progress(done, total);
                out.write_all(chunk).map_err(BundleError::io(&self.data.path))
            })?;
            out.end()?;
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
        let total = self.files.iter().map(|file| file.entry.size).sum();
        let mut done = 0;
        let mut buffer = self.chunk();
        for file in &self.files {
            let mut context = digest::Context::new(&digest::SHA256);
            self.sealed(file).read_chunks(&mut buffer, &mut |chunk| {
                context.update(chunk);
                done += chunk.len() as u64;
                progress(done, total);
                Ok(())
            })?;
            if context.finish().as_ref() != file.entry.sha256 {
                let what = format!("{}: SHA-256 differs from the one in the manifest", file.entry.name);
                return Err(BundleError::invalid(&self.data.path, what));
            }
        }
        let (padding, _) = self.data.layout.locate(total);
        let (mut sealed, mut segment) = (Vec::new(), Zeroizing::new(vec![0; self.data.cipher.plain_len()]));
        for position in padding..self.data.layout.segments() {
            let held = self.data.plain_len(position);
            self.data.open_segment(position, &mut sealed, &mut segment[..held])?;
        }
        Ok(())
    }

    /// Working space for `read_chunks`, no larger than the largest file needs.
    fn chunk(&self) -> Zeroizing<Vec<u8>> {
        let largest = self.files.iter().map(|file| file.entry.size).max().unwrap_or(0);
        Zeroizing::new(vec![0; largest.min(CHUNK as u64) as usize])
    }

    fn find(&self, name: &str) -> Result<&Placed, BundleError> {
        let missing = || BundleError::NoFile { path: self.data.path.display().to_string(), name: name.into() };
        self.by_name.get(name).and_then(|at| self.files.get(*at)).ok_or_else(missing)
    }

    fn sealed(&self, file: &Placed) -> SealedFile {
        let name = file.entry.name.clone();
        SealedFile { data: self.data.clone(), name, at: file.at, size: file.entry.size, cached: Mutex::default() }
    }
}

/// What an identity gives access to.
pub(super) struct Opened {
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
    let id = read_marker(path)?;
    check_parts(path)?;
    let keyring = Keyring::read(path)?;
    let (key, identity) = keyring.unwrap(path, &id, identities)?;
    let members = keyring.members(path, &key, &id)?;
    let manifest = open_manifest(path, &key, &id)?;
    let refused = |refusal| match refusal {
        Refusal::Older { seen, list } => {
            let (path, list) = (path.display().to_string(), list.display().to_string());
            BundleError::Rollback { path, epoch: manifest.epoch, seen, list }
        }
        Refusal::Unreadable(list, source) => BundleError::Io { path: list.display().to_string(), source },
    };
    identity.floor().map_or(Ok(()), |floor| floor.pass(&manifest.lineage, manifest.epoch)).map_err(refused)?;
    Ok(Opened { id, key, keyring, members, manifest })
}

/// A file inside a bundle, decrypted by position.
pub struct SealedFile {
    data: Arc<Data>,
    name: String,
    /// Where it begins in the data stream's plaintext.
    at: u64,
    size: u64,
    cached: Mutex<Cached>,
}

/// The segment last read in part: small reads in sequence decrypt it once.
#[derive(Default)]
struct Cached {
    position: Option<u64>,
    plain: Zeroizing<Vec<u8>>,
}

impl SealedFile {
    /// Plaintext length.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Decrypts and authenticates the segments that cover `at..at + out.len()`.
    pub fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), BundleError> {
        let len = out.len() as u64;
        if at.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(BundleError::OutOfRange { name: self.name.clone(), at, len, size: self.size });
        }
        let mut sealed = Vec::new();
        let (mut at, mut rest) = (self.at + at, out);
        while !rest.is_empty() {
            let (position, offset) = self.data.layout.locate(at);
            let held = self.data.plain_len(position);
            let (part, left) = rest.split_at_mut(rest.len().min(held - offset));
            if part.len() == held {
                self.data.open_segment(position, &mut sealed, part)?;
            } else {
                self.read_part(position, offset, &mut sealed, part)?;
            }
            at += part.len() as u64;
            rest = left;
        }
        Ok(())
    }

    /// Hands the content on in order, in pieces that fit into `buffer`.
    fn read_chunks(&self, buffer: &mut [u8], each: &mut dyn FnMut(&[u8]) -> Result<(), BundleError>) -> Result<(), BundleError> {
        let mut at = 0;
        while at < self.size {
            let step = (self.size - at).min(buffer.len() as u64);
            let chunk = &mut buffer[..step as usize];
            self.read_exact_at(at, chunk)?;
            at += chunk.len() as u64;
            each(chunk)?;
        }
        Ok(())
    }

    fn read_part(&self, position: u64, offset: usize, sealed: &mut Vec<u8>, out: &mut [u8]) -> Result<(), BundleError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.position != Some(position) {
            cached.position = None;
            cached.plain.resize(self.data.plain_len(position), 0);
            self.data.open_segment(position, sealed, &mut cached.plain)?;
            cached.position = Some(position);
        }
        out.copy_from_slice(&cached.plain[offset..offset + out.len()]);
        Ok(())
    }
}

/// The stream `data`, its length known from the manifest.
struct Data {
    path: PathBuf,
    file: File,
    cipher: Cipher,
    layout: Layout,
}

impl Data {
    fn open(path: &Path, key: &ContentKey, id: &BundleId, manifest: &Manifest) -> Result<Self, BundleError> {
        let name = path.join(DATA);
        let file = File::open(&name).map_err(BundleError::io(&name))?;
        let found = file.metadata().map_err(BundleError::io(&name))?.len();
        let cut = |expected: u64| BundleError::Truncated {
            path: path.display().to_string(),
            part: format!("{DATA} (it has {found} of {expected} bytes)"),
        };
        if found < HEADER_LEN as u64 {
            return Err(cut(HEADER_LEN as u64));
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0).map_err(BundleError::io(&name))?;
        let cipher = Cipher::open(&key.derive("stream"), &aad(id, DATA), &header).map_err(BundleError::floe(path, DATA))?;
        if cipher.iv() != manifest.data.iv {
            return Err(BundleError::tampered(path, "data, header,"));
        }
        let layout = Layout::new(manifest.data.length, cipher.segment_len())
            .ok_or_else(|| BundleError::invalid(path, format!("the manifest: {} bytes are too long", manifest.data.length)))?;
        match layout.stream_len() {
            expected if found < expected => Err(cut(expected)),
            expected if found > expected => {
                Err(BundleError::tampered(path, format!("{DATA} ({} bytes too long)", found - expected)))
            }
            _ => Ok(Self { path: path.to_owned(), file, cipher, layout }),
        }
    }

    fn plain_len(&self, position: u64) -> usize {
        let (range, _) = self.layout.segment(position);
        (range.end - range.start) as usize - floe::OVERHEAD
    }

    /// Decrypts one segment into `out`, which has its length; `sealed` is working space.
    fn open_segment(&self, position: u64, sealed: &mut Vec<u8>, out: &mut [u8]) -> Result<(), BundleError> {
        let (range, last) = self.layout.segment(position);
        sealed.resize((range.end - range.start) as usize, 0);
        self.file.read_exact_at(sealed, range.start).map_err(BundleError::io(&self.path.join(DATA)))?;
        self.cipher.open_segment(position, last, sealed, out).map_err(BundleError::floe(&self.path, DATA))
    }
}

/// Exactly the four parts, and none of them a link.
fn check_parts(path: &Path) -> Result<(), BundleError> {
    let bundle = || path.display().to_string();
    let mut missing = BTreeSet::from([MARKER, KEYS, MANIFEST, DATA]);
    for entry in fs::read_dir(path).map_err(BundleError::io(path))? {
        let entry = entry.map_err(BundleError::io(path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(BundleError::io(&entry.path()))?;
        let right = if name == KEYS { kind.is_dir() } else { kind.is_file() };
        if !missing.remove(name.as_str()) || !right {
            return Err(BundleError::Extra { path: bundle(), part: name });
        }
    }
    match missing.first() {
        Some(part) => Err(BundleError::Missing { path: bundle(), part: (*part).into() }),
        None => Ok(()),
    }
}

fn open_manifest(path: &Path, key: &ContentKey, id: &BundleId) -> Result<Manifest, BundleError> {
    let name = path.join(MANIFEST);
    let most = manifest::MAX_LEN + manifest::MAX_LEN / 1024;
    let sealed = read_bounded(&name, most).map_err(BundleError::io(&name))?;
    let json = floe::open(&key.derive("stream"), &aad(id, MANIFEST), &sealed).map_err(BundleError::floe(path, MANIFEST))?;
    Manifest::parse(&json).map_err(|what| BundleError::invalid(path, what))
}
