//! An output while it is made: a plain file, a file in a plain directory, or a file in a sealed bundle.
//!
//! What is plain is made in a folder beside the output, `OUT.partial`, and gets its name when it is whole. A journal in it says how
//! much has reached the disk, so that work which the machine or a full disk interrupted goes on from there.

use crate::{FileSet, Model, StoreError};
use coffer_seal::{
    Recipient,
    bundle::{BundleWriter, NamelessBundle, SealedStream},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Bytes that are collected before the system is asked to write them.
const BUFFER: usize = 1 << 20;
/// In the folder. Its first line says what work this is; each other one how many tensors and bytes are safe.
const JOURNAL: &str = ".journal";
const MAGIC: &str = "coffer-journal 1";

/// Where a model is written, and for whom. A path alone is a plain output.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// File, directory or bundle, which must not exist.
    pub path: &'a Path,
    /// Who may open it; without any the output is plain. With some it is a bundle that is sealed while it is written:
    /// its plaintext reaches no disk.
    pub recipients: &'a [Recipient],
    /// Which work this is. The same work, interrupted, goes on where it was; without an identity, and sealed, it begins anew.
    pub work: Option<WorkId>,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Destination<'a> {
    fn from(path: &'a P) -> Self {
        Self { path: path.as_ref(), recipients: &[], work: None }
    }
}

/// Identity of work: everything that the bytes of its outcome depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkId([u8; 32]);

impl WorkId {
    /// Of work that depends on nothing but `facts`.
    pub fn of(facts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for fact in facts {
            hasher.update((fact.len() as u64).to_le_bytes());
            hasher.update(fact);
        }
        Self(hasher.finalize().into())
    }

    /// The same work with something else that it depends on.
    pub(super) fn and(self, fact: &[u8]) -> Self {
        Self::of(&[&self.0, fact])
    }
}

/// What is being written.
pub(crate) enum Draft {
    Plain(Plain),
    Bundle(Box<SealedStream>),
}

/// A file in the folder of an unfinished output.
pub(crate) struct Plain {
    folder: Folder,
    file: BufWriter<File>,
    /// Name in the folder.
    name: String,
    /// Whether the output is the folder, not the file.
    whole_folder: bool,
    /// Bytes that were given.
    position: u64,
    /// Bytes that an interrupted run left; they are not written again.
    kept: u64,
    /// Tensors in them.
    kept_tensors: usize,
}

impl Draft {
    /// A single file; inside a bundle it is called `name`.
    pub(crate) fn file(output: Destination<'_>, name: &str) -> Result<Self, StoreError> {
        if !output.recipients.is_empty() {
            return Ok(Self::Bundle(Box::new(BundleWriter::create(output.path, output.recipients)?.stream(name)?)));
        }
        Ok(Self::Plain(Plain::open(output, &[], name, false)?))
    }

    /// The large file `name` with small ones beside it, which are written now.
    pub(crate) fn directory(output: Destination<'_>, beside: &[(&str, String)], name: &str) -> Result<Self, StoreError> {
        if !output.recipients.is_empty() {
            let mut bundle = BundleWriter::create(output.path, output.recipients)?;
            for (name, text) in beside {
                bundle.add(name, &mut text.as_bytes())?;
            }
            return Ok(Self::Bundle(Box::new(bundle.stream(name)?)));
        }
        Ok(Self::Plain(Plain::open(output, beside, name, true)?))
    }

    /// Tensors that are there from an interrupted run. Bytes must be given for them all the same: they are passed over.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Plain(plain) => plain.kept_tensors,
            Self::Bundle(_) => 0,
        }
    }

    /// Brings all that was given to the disk, and notes that so many tensors are in it.
    pub(crate) fn note(&mut self, tensors: usize) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.note(tensors),
            Self::Bundle(_) => Ok(()),
        }
    }

    /// Leaves what was noted for the same work to go on with, and says where it is.
    pub(crate) fn leave(&mut self) -> Option<PathBuf> {
        match self {
            Self::Plain(Plain { folder, .. }) => folder.leave(),
            Self::Bundle(_) => None,
        }
    }

    /// Brings all of it to the disk.
    pub(crate) fn complete(self) -> Result<Nameless, StoreError> {
        Ok(Nameless(match self {
            Self::Plain(Plain { folder, file, name, whole_folder, .. }) => {
                let synced = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
                synced.map_err(StoreError::io(&folder.out))?;
                Whole::Plain { folder, name, whole_folder }
            }
            Self::Bundle(stream) => Whole::Bundle(Box::new(stream.end().complete()?)),
        }))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => {
                let passed = plain.kept.saturating_sub(plain.position).min(bytes.len() as u64);
                let written = if passed > 0 { passed as usize } else { plain.file.write(bytes)? };
                plain.position += written as u64;
                Ok(written)
            }
            Self::Bundle(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.file.flush(),
            Self::Bundle(stream) => stream.flush(),
        }
    }
}

impl Plain {
    fn open(output: Destination<'_>, beside: &[(&str, String)], name: &str, whole_folder: bool) -> Result<Self, StoreError> {
        let (folder, kept) = Folder::open(output)?;
        let path = folder.path.join(name);
        let written = || -> io::Result<(File, Kept)> {
            for (name, text) in beside {
                let mut file = File::create(folder.path.join(name))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
            }
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            // A file that is shorter than was noted was not left by us.
            let kept = if file.metadata()?.len() < kept.bytes { Kept::default() } else { kept };
            file.set_len(kept.bytes)?;
            file.seek(SeekFrom::Start(kept.bytes))?;
            Ok((file, kept))
        };
        let (file, kept) = written().map_err(StoreError::io(&path))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let name = name.to_owned();
        Ok(Self { folder, file, name, whole_folder, position: 0, kept: kept.bytes, kept_tensors: kept.tensors })
    }

    fn note(&mut self, tensors: usize) -> io::Result<()> {
        if !self.folder.resumes {
            return Ok(());
        }
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        self.folder.note(tensors, self.position)
    }
}

/// An output that is whole and has no name yet. What is dropped without one is removed.
pub struct Nameless(Whole);

enum Whole {
    Plain { folder: Folder, name: String, whole_folder: bool },
    Bundle(Box<NamelessBundle>),
}

impl Nameless {
    /// Opens the model that was written, sealed or not.
    ///
    /// # Errors
    /// As [`open`](crate::open()).
    pub fn open(&self) -> Result<Model, StoreError> {
        match &self.0 {
            Whole::Plain { folder, whole_folder: true, .. } => crate::open(&folder.path, &[]),
            Whole::Plain { folder, name, .. } => crate::open(&folder.path.join(name), &[]),
            Whole::Bundle(bundle) => crate::open_files(bundle.path(), FileSet::of_bundle(bundle.path(), bundle.open()?)),
        }
    }

    /// Gives it the name `out`, beside the one that it was made for.
    ///
    /// # Errors
    /// Something is there, or the system refuses.
    pub fn place(self, out: &Path) -> Result<(), StoreError> {
        match self.0 {
            Whole::Plain { folder, name, whole_folder } => {
                let placed = if whole_folder { folder.place(out) } else { place_new(&folder.path.join(name), out) };
                placed.and_then(|()| sync_directory(parent(out))).map_err(StoreError::io(out))
            }
            Whole::Bundle(bundle) => Ok(bundle.place(out)?),
        }
    }

    /// Leaves it for the same work to find, if that can, and says where it is.
    pub fn leave(self) -> Option<PathBuf> {
        match self.0 {
            Whole::Plain { mut folder, .. } => folder.leave(),
            Whole::Bundle(_) => None,
        }
    }
}

/// The folder of an unfinished output. Nobody else works in it. Dropped, it is removed.
struct Folder {
    out: PathBuf,
    path: PathBuf,
    /// Locked.
    journal: File,
    /// Whether another run can go on with it.
    resumes: bool,
    noted: bool,
    remove: bool,
}

/// What an interrupted run left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    tensors: usize,
    bytes: u64,
}

impl Folder {
    fn open(Destination { path: out, work, .. }: Destination<'_>) -> Result<(Self, Kept), StoreError> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        let foreign = || {
            let reason = "it is in the way of an unfinished output and was not left by one; move it away".to_owned();
            StoreError::File { path: path.display().to_string(), reason }
        };
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
                if !empty && !fs::symlink_metadata(path.join(JOURNAL)).is_ok_and(|m| m.is_file()) {
                    return Err(foreign());
                }
            }
            made => made.map_err(StoreError::io(&path))?,
        }
        let place = path.join(JOURNAL);
        let options = OpenOptions::new().read(true).append(true).create(true).to_owned();
        let journal = options.open(&place).map_err(StoreError::io(&place))?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(out.display().to_string())),
            Err(TryLockError::Error(e)) => return Err(StoreError::io(&place)(e)),
        }
        let mut folder = Self { out: out.to_owned(), path, journal, resumes: work.is_some(), noted: false, remove: true };
        if fs::symlink_metadata(out).is_ok() {
            return Err(StoreError::Exists(out.display().to_string()));
        }
        let kept = folder.begin(work).map_err(StoreError::io(&place))?;
        folder.noted = kept.is_some();
        Ok((folder, kept.unwrap_or_default()))
    }

    /// What is left of this work; begins the journal of another one.
    fn begin(&mut self, work: Option<WorkId>) -> io::Result<Option<Kept>> {
        let mut text = String::new();
        // A journal that is no text is as good as none.
        let _ = (&self.journal).take(MOST_JOURNAL).read_to_string(&mut text);
        let kept = work.and_then(|work| read(&text, work));
        if kept.is_none() {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_name() != JOURNAL {
                    fs::remove_file(entry.path())?;
                }
            }
            self.journal.set_len(0)?;
            self.journal.write_all(first_line(work).as_bytes())?;
        }
        Ok(kept)
    }

    /// It stays, if anything was noted that another run can go on from.
    fn leave(&mut self) -> Option<PathBuf> {
        self.remove = !self.noted;
        self.noted.then(|| self.path.clone())
    }

    /// It becomes the output itself.
    fn place(mut self, out: &Path) -> io::Result<()> {
        fs::remove_file(self.path.join(JOURNAL))?;
        sync_directory(&self.path)?;
        // Rename would replace an empty directory that appeared meanwhile, but nothing that holds anything.
        fs::rename(&self.path, out)?;
        self.remove = false;
        Ok(())
    }

    fn note(&mut self, tensors: usize, bytes: u64) -> io::Result<()> {
        self.journal.write_all(format!("{tensors} {bytes}\n").as_bytes())?;
        self.journal.sync_data()?;
        self.noted = true;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove {
            // What cannot be removed is removed by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Longest journal that is read.
const MOST_JOURNAL: u64 = 1 << 24;

fn first_line(work: Option<WorkId>) -> String {
    format!("{MAGIC} {}\n", work.map_or_else(|| "-".to_owned(), |WorkId(id)| hex::encode(id)))
}

/// The last whole line of the journal of `work`. Lines that did not reach the disk whole end it.
fn read(journal: &str, work: WorkId) -> Option<Kept> {
    let lines = journal.strip_prefix(&first_line(Some(work)))?;
    let line = |line: &str| {
        let (tensors, bytes) = line.strip_suffix('\n')?.split_once(' ')?;
        Some(Kept { tensors: tensors.parse().ok()?, bytes: bytes.parse().ok()? })
    };
    lines.split_inclusive('\n').map_while(line).last()
}

/// Gives a file its name, where nothing may be.
fn place_new(file: &Path, out: &Path) -> io::Result<()> {
    match fs::hard_link(file, out) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // Not every file system has hard links.
        Err(_) if fs::symlink_metadata(out).is_err() => fs::rename(file, out),
        linked => linked,
    }
}

/// The directory in which `out` appears.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in `directory` durable.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: WorkId = WorkId([7; 32]);

    #[test]
    fn a_journal_is_read_up_to_its_last_whole_line() {
        let head = first_line(Some(WORK));
        let kept = |tensors, bytes| Some(Kept { tensors, bytes });
        assert_eq!(read(&format!("{head}1 100\n12 3456\n"), WORK), kept(12, 3456));
        for torn in ["12 34", "12", "\0\0\0\n", "12 345x\n", "-1 5\n13 9999\n"] {
            assert_eq!(read(&format!("{head}1 100\n{torn}"), WORK), kept(1, 100), "{torn:?}");
        }
        assert_eq!(read(&head, WORK), None);
        assert_eq!(read(&format!("{head}1 100\n"), WorkId([8; 32])), None);
        assert_eq!(read(&format!("{}1 100\n", first_line(None)), WORK), None);
        assert_eq!(read("", WORK), None);
    }

    fn draft(out: &Path, work: Option<WorkId>) -> Result<Draft, StoreError> {
        Draft::file(Destination { path: out, recipients: &[], work }, "model.gguf")
    }

    #[test]
    fn work_goes_on_where_it_was_noted_and_other_work_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.gguf");
        let interrupted = || {
            let mut first = draft(&out, Some(WORK)).unwrap();
            first.write_all(b"headAAAA").unwrap();
            first.note(1).unwrap();
            first.write_all(b"BBBB that was lost").unwrap();
            assert_eq!(first.leave().unwrap(), dir.path().join("out.gguf.partial"));
        };
        interrupted();
        let mut second = draft(&out, Some(WORK)).unwrap();
        assert_eq!(second.kept(), 1);
        second.write_all(b"headAAxxBBBB").unwrap();
        second.complete().unwrap().place(&out).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"headAAAABBBB");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        fs::remove_file(&out).unwrap();
        for other in [Some(WorkId([8; 32])), None] {
            interrupted();
            let mut second = draft(&out, other).unwrap();
            assert_eq!(second.kept(), 0);
            second.write_all(b"all of it").unwrap();
            second.complete().unwrap().place(&out).unwrap();
            assert_eq!(fs::read(&out).unwrap(), b"all of it");
            fs::remove_file(&out).unwrap();
        }
    }

    #[test]
    fn what_was_not_noted_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.gguf");
        let mut nobodys = draft(&out, None).unwrap();
        nobodys.write_all(b"head").unwrap();
        nobodys.note(1).unwrap();
        assert_eq!(nobodys.leave(), None);
        drop(nobodys);
        let mut first = draft(&out, Some(WORK)).unwrap();
        first.write_all(b"head").unwrap();
        assert_eq!(first.leave(), None);
        drop(first);
        drop(draft(&out, Some(WORK)).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_do_not_write_the_same_output() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.gguf");
        let first = draft(&out, Some(WORK)).unwrap();
        assert!(matches!(draft(&out, Some(WORK)), Err(StoreError::Busy(_))));
        first.complete().unwrap().place(&out).unwrap();
        assert!(matches!(draft(&out, Some(WORK)), Err(StoreError::Exists(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_called_so_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (out, theirs) = (dir.path().join("out.gguf"), dir.path().join("out.gguf.partial"));
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("notes.txt"), "mine").unwrap();
        assert!(draft(&out, Some(WORK)).err().unwrap().to_string().contains("move it away"));
        assert_eq!(fs::read(theirs.join("notes.txt")).unwrap(), b"mine");
    }
}
