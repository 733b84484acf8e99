//! Writing a bundle: beside its final name, then renamed. Encryption, digests and the disk run on three threads.

use super::{
    Bundle, BundleError,
    direct::DirectFile,
    keyring::Keyring,
    layout::{BundleId, ContentKey, DATA, KEYS, MANIFEST, MARKER, SEGMENT_LEN, aad, marker, padded, random},
    manifest::{Data, Entry, Lineage, Manifest, Names, Records},
    records::{Indexer, RecordIndex, RecordKind},
    unfinished::{Unfinished, refuse_existing, sync_folder},
};
use crate::{
    Recipient,
    floe::{self, Cipher, OVERHEAD},
};
use aws_lc_rs::digest;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};
use zeroize::Zeroizing;

/// Writes a bundle beside its final name and renames it when it is whole. What is dropped unfinished is removed.
pub struct BundleWriter {
    folder: Unfinished,
    key: ContentKey,
    id: BundleId,
    data: DataWriter,
    names: Names,
    files: Vec<(String, u64)>,
    lineage: Lineage,
    epoch: u64,
    /// Record indexes, by the file's place among `files`.
    indexes: BTreeMap<usize, RecordIndex>,
    /// Whether a file was begun and not ended.
    open: bool,
}

impl BundleWriter {
    /// Starts a bundle at `path`, which must not exist.
    pub fn create(path: &Path, recipients: &[Recipient]) -> Result<Self, BundleError> {
        Self::create_with(path, recipients, ContentKey::generate()?, random()?, SEGMENT_LEN)
    }

    pub(super) fn create_with(
        path: &Path,
        recipients: &[Recipient],
        key: ContentKey,
        id: BundleId,
        segment_len: u32,
    ) -> Result<Self, BundleError> {
        refuse_existing(path)?;
        Self::in_folder(Unfinished::beside(path)?, recipients, key, id, segment_len)
    }

    /// Starts a bundle in an empty folder.
    pub(super) fn in_folder(
        folder: Unfinished,
        recipients: &[Recipient],
        key: ContentKey,
        id: BundleId,
        segment_len: u32,
    ) -> Result<Self, BundleError> {
        let keyring = Keyring::wrap(&key, &id, recipients)?;
        write_synced(&folder.path().join(MARKER), marker(&id).as_bytes())?;
        let keys = folder.path().join(KEYS);
        fs::create_dir(&keys).map_err(BundleError::io(&keys))?;
        keyring.write(&keys)?;
        sync_folder(&keys)?;
        let data = DataWriter::create(folder.path().join(DATA), &key, &id, segment_len)?;
        let (names, files, indexes) = (Names::default(), Vec::new(), BTreeMap::new());
        Ok(Self { folder, key, id, data, names, files, lineage: random()?, epoch: 1, indexes, open: false })
    }

    /// Makes it a later epoch of a bundle that exists.
    pub(super) fn succeed(&mut self, lineage: Lineage, epoch: u64) {
        (self.lineage, self.epoch) = (lineage, epoch);
    }

    /// Seals everything `content` has to give under `name` (relative, `/`-separated).
    pub fn add(&mut self, name: &str, content: &mut dyn Read) -> Result<(), BundleError> {
        self.begin(name)?;
        loop {
            let read = self.data.fill_from(content).map_err(|e| match e {
                Fill::Source(e) => BundleError::io(Path::new(name))(e),
                Fill::Data(e) => e,
            })?;
            if read == 0 {
                break;
            }
            self.count(read)?;
        }
        self.end_file();
        Ok(())
    }

    /// As [`Self::add`], with an index of the records in `content`. A line that is none is an error.
    pub fn add_records(&mut self, name: &str, kind: RecordKind, content: &mut dyn Read) -> Result<(), BundleError> {
        let mut indexed = Indexed { content, indexer: Indexer::new(kind) };
        self.add(name, &mut indexed)?;
        let index = indexed.indexer.finish().map_err(|why| BundleError::Source { path: name.into(), why })?;
        self.indexes.insert(self.files.len() - 1, index);
        Ok(())
    }

    /// Appends to the file `name`, which is begun if none is open, and ended if this `ends` it.
    pub(super) fn add_part(&mut self, name: &str, part: &[u8], ends: bool) -> Result<(), BundleError> {
        if !self.open {
            self.begin(name)?;
        }
        self.data.append(part)?;
        self.count(part.len())?;
        if ends {
            self.end_file();
        }
        Ok(())
    }

    /// Gives the file that was added as the one `at` this place (from 0) an index of its records.
    pub(super) fn set_records(&mut self, at: usize, index: RecordIndex) {
        self.indexes.insert(at, index);
    }

    /// A writer into the bundle, for a file that is made while it is sealed.
    pub fn stream(mut self, name: &str) -> Result<SealedStream, BundleError> {
        self.begin(name)?;
        Ok(SealedStream(self))
    }

    /// Seals the manifest, syncs, renames.
    pub fn finish(self) -> Result<(), BundleError> {
        let NamelessBundle { folder, .. } = self.complete()?;
        folder.rename()
    }

    /// All but the renaming.
    pub fn complete(self) -> Result<NamelessBundle, BundleError> {
        if self.open {
            let (name, _) = self.files.last().cloned().unwrap_or_default();
            return Err(BundleError::Name { name, why: "its content was begun and not ended".into() });
        }
        let Self { folder, key, id, mut data, files, lineage, epoch, indexes, .. } = self;
        let mut records = append_indexes(&mut data, &files, indexes)?;
        let (digests, stream) = data.finish()?;
        let entry = |(at, ((name, size), sha256))| Entry { name, size, sha256, records: records.remove(&at) };
        let files = files.into_iter().zip(digests).enumerate().map(entry).collect();
        let manifest = Manifest { epoch, lineage, data: stream, files };
        let json = Zeroizing::new(manifest.to_padded_json().map_err(|what| BundleError::invalid(&folder.target, what))?);
        let sealed = floe::seal(&key.derive("stream"), &aad(&id, MANIFEST), SEGMENT_LEN, &json)
            .map_err(BundleError::floe(&folder.target, MANIFEST))?;
        write_synced(&folder.path().join(MANIFEST), &sealed)?;
        Ok(NamelessBundle { folder, key, id, files: manifest.files })
    }

    fn begin(&mut self, name: &str) -> Result<(), BundleError> {
        if self.open {
            return Err(BundleError::Name { name: name.into(), why: "the file before it was not ended".into() });
        }
        self.names.insert(name).map_err(|why| BundleError::Name { name: name.into(), why })?;
        self.files.push((name.into(), 0));
        self.open = true;
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), BundleError> {
        let Some((name, size)) = self.files.last_mut() else { return Ok(()) };
        *size = size.checked_add(bytes as u64).ok_or_else(|| BundleError::Name { name: name.clone(), why: "too long".into() })?;
        Ok(())
    }

    fn end_file(&mut self) {
        self.data.end_file();
        self.open = false;
    }
}

/// A bundle that is whole and has no name yet. What is dropped without one is removed.
pub struct NamelessBundle {
    folder: Unfinished,
    key: ContentKey,
    id: BundleId,
    files: Vec<Entry>,
}

impl NamelessBundle {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Opens it with the key that it was sealed with, which its writer has whoever it is for.
    pub fn open(&self) -> Result<Bundle, BundleError> {
        Bundle::with_key(self.path(), &self.key, self.id)
    }

    /// Gives it the name `path`, in the folder of the one that it was made for. Nothing may be there.
    pub fn place(mut self, path: &Path) -> Result<(), BundleError> {
        path.clone_into(&mut self.folder.target);
        self.folder.rename()
    }

    /// Its folder, and the list of what it holds.
    pub(super) fn into_parts(self) -> (Unfinished, Vec<Entry>) {
        (self.folder, self.files)
    }
}

/// What is read is indexed.
struct Indexed<'a> {
    content: &'a mut dyn Read,
    indexer: Indexer,
}

impl Read for Indexed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(out)?;
        self.indexer.update(&out[..read]).map_err(io::Error::other)?;
        Ok(read)
    }
}

/// Puts the indexes behind the files, and says where each is.
fn append_indexes(
    data: &mut DataWriter,
    files: &[(String, u64)],
    indexes: BTreeMap<usize, RecordIndex>,
) -> Result<BTreeMap<usize, Records>, BundleError> {
    let mut at = files.iter().map(|(_, size)| size).sum();
    let mut records = BTreeMap::new();
    for (file, index) in indexes {
        let bytes = index.to_bytes();
        let size = bytes.len() as u64;
        records.insert(file, Records { kind: index.kind().name().into(), count: index.count(), at, size });
        data.append(&bytes)?;
        at += size;
    }
    Ok(records)
}

/// A file that grows inside a bundle. It has to be ended, so that what was written can be told from what was cut off:
/// dropping it instead removes the bundle.
pub struct SealedStream(BundleWriter);

impl SealedStream {
    /// The file is whole; gives the bundle back for the next one.
    pub fn end(mut self) -> BundleWriter {
        self.0.end_file();
        self.0
    }
}

impl Write for SealedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.data.append(bytes).and_then(|()| self.0.count(bytes.len())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Fill {
    Source(io::Error),
    Data(BundleError),
}

fn read_once(content: &mut dyn Read, out: &mut [u8]) -> Result<usize, Fill> {
    loop {
        match content.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            read => return read.map_err(Fill::Source),
        }
    }
}

/// One segment of plaintext on its way: `used` bytes of it belong to files, which end at `ends`.
struct Segment {
    plain: Zeroizing<Vec<u8>>,
    used: usize,
    ends: Vec<usize>,
}

/// Fills segments, seals the full ones and sends them on to be digested. Segments are reused: five at most exist.
struct DataWriter {
    path: PathBuf,
    file: DirectFile,
    cipher: Cipher,
    position: u64,
    segment: Segment,
    /// What comes after it, if that is there already.
    next: Option<Segment>,
    sealed: Vec<u8>,
    full: mpsc::SyncSender<Segment>,
    free: mpsc::Receiver<Segment>,
    digests: thread::JoinHandle<Vec<[u8; 32]>>,
}

impl DataWriter {
    fn create(path: PathBuf, key: &ContentKey, id: &BundleId, segment_len: u32) -> Result<Self, BundleError> {
        let (cipher, header) =
            Cipher::start(&key.derive("stream"), &aad(id, DATA), segment_len).map_err(BundleError::floe(&path, DATA))?;
        let mut file = DirectFile::create(&path).map_err(BundleError::io(&path))?;
        file.write(&header).map_err(BundleError::io(&path))?;
        let (full, to_digest) = mpsc::sync_channel(3);
        let (digested, free) = mpsc::channel();
        let digests = thread::Builder::new().name("digest".into()).spawn(move || digest_files(&to_digest, &digested));
        let digests = digests.map_err(BundleError::io(&path))?;
        let segment = Segment::new(cipher.plain_len());
        let sealed = vec![0; cipher.segment_len()];
        Ok(Self { path, file, cipher, position: 0, segment, next: None, sealed, full, free, digests })
    }

    /// Reads once from `content`; 0 at its end. A full segment is sealed only when more follows, for it may be the last.
    fn fill_from(&mut self, content: &mut dyn Read) -> Result<usize, Fill> {
        if self.segment.used < self.cipher.plain_len() {
            let read = read_once(content, &mut self.segment.plain[self.segment.used..])?;
            self.segment.used += read;
            return Ok(read);
        }
        let mut next = self.spare();
        let read = read_once(content, &mut next.plain)?;
        next.used = read;
        self.next = Some(next);
        if read > 0 {
            self.seal(self.segment.used, false).map_err(Fill::Data)?;
        }
        Ok(read)
    }

    /// An empty segment, a used one if there is one.
    fn spare(&mut self) -> Segment {
        let spare = self.next.take().or_else(|| self.free.try_recv().ok());
        spare.unwrap_or_else(|| Segment::new(self.cipher.plain_len()))
    }

    /// Takes all of `bytes`.
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), BundleError> {
        while !bytes.is_empty() {
            self.fill_from(&mut bytes).map_err(|e| match e {
                Fill::Source(e) => BundleError::io(&self.path)(e),
                Fill::Data(e) => e,
            })?;
        }
        Ok(())
    }

    fn end_file(&mut self) {
        self.segment.ends.push(self.segment.used);
    }

    /// Seals the first `length` bytes of the segment and begins the next.
    fn seal(&mut self, length: usize, last: bool) -> Result<(), BundleError> {
        let sealed = &mut self.sealed[..length + OVERHEAD];
        self.cipher
            .seal(self.position, last, &self.segment.plain[..length], sealed)
            .map_err(BundleError::floe(&self.path, DATA))?;
        self.file.write(sealed).map_err(BundleError::io(&self.path))?;
        self.position += 1;
        let next = self.spare();
        let full = std::mem::replace(&mut self.segment, next);
        self.full.send(full).map_err(|_| BundleError::Cipher(self.path.display().to_string()))
    }

    /// Pads, seals the last segment, syncs. Gives the files' digests in order, and the stream's description.
    fn finish(mut self) -> Result<(Vec<[u8; 32]>, Data), BundleError> {
        let step = self.cipher.plain_len() as u64;
        let content = self.position * step + self.segment.used as u64;
        let length = padded(content).ok_or_else(|| BundleError::invalid(&self.path, "too much content"))?;
        let mut filled = self.segment.used;
        while self.position * step + (filled as u64) < length {
            if filled == step as usize {
                self.seal(filled, false)?;
                filled = 0;
            }
            let missing = (length - self.position * step).min(step) as usize;
            self.segment.plain[filled..missing].fill(0);
            filled = missing;
        }
        self.seal(filled, true)?;
        self.file.finish().map_err(BundleError::io(&self.path))?;
        drop(self.full);
        let digests = self.digests.join().map_err(|_| BundleError::Cipher(self.path.display().to_string()))?;
        let iv = self.cipher.iv().try_into().map_err(|_| BundleError::Cipher(self.path.display().to_string()))?;
        Ok((digests, Data { iv, length }))
    }
}

impl Segment {
    fn new(len: usize) -> Self {
        Self { plain: Zeroizing::new(vec![0; len]), used: 0, ends: Vec::new() }
    }
}

/// SHA-256 of every file, in order.
fn digest_files(segments: &mpsc::Receiver<Segment>, free: &mpsc::Sender<Segment>) -> Vec<[u8; 32]> {
    let mut digests = Vec::new();
    let mut context = digest::Context::new(&digest::SHA256);
    for mut segment in segments {
        let mut from = 0;
        for end in segment.ends.drain(..) {
            context.update(&segment.plain[from..end]);
            let whole = std::mem::replace(&mut context, digest::Context::new(&digest::SHA256)).finish();
            let mut bytes = [0; 32];
            bytes.copy_from_slice(whole.as_ref());
            digests.push(bytes);
            from = end;
        }
        context.update(&segment.plain[from..segment.used]);
        segment.used = 0;
        // Nobody takes the last segments back.
        let _ = free.send(segment);
    }
    digests
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(BundleError::io(path))
}
