//! Data sets: the records of text, JSONL and Parquet files, plain or sealed, at random and shuffled.

use crate::{FileSet, StoreError, parquet, shuffle::Shuffle};
use coffer_checkpoint::ReadAt;
use coffer_seal::{
    Identity,
    bundle::records::{self, Indexer, MAX_RECORD, RecordIndex, RecordKind, is_blank, is_parquet},
};
use std::{path::Path, sync::Arc};
use zeroize::Zeroizing;

/// Bytes read at once while the index of a plain file is made.
const SCAN: usize = 1 << 20;
/// Bytes read at once on the way to a record.
const STEP: usize = 64 << 10;

/// The records of one or more files, in the order of the files' names.
pub struct Dataset {
    files: Vec<DataFile>,
}

/// One file of a data set.
pub struct DataFile {
    /// Name within the data set.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of its first record within the data set.
    first: u64,
    records: Records,
}

enum Records {
    Lines(RecordIndex, Arc<dyn ReadAt>),
    Rows(Box<parquet::Rows>),
}

impl Dataset {
    /// Opens a text, JSONL or Parquet file, a directory or a bundle with such files. Files whose names say nothing of the kind
    /// (see [`RecordKind::of_name`], [`is_parquet`]) are left out. Parquet files and sealed ones bring their index along; others are
    /// read through once.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is no such file, or if a line in one is no record; names file and line. The same for Parquet
    /// files that are damaged, or that this build cannot read (feature `parquet`).
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, StoreError> {
        let set = FileSet::open(path, identities)?;
        let pages = Arc::new(parquet::PageCache::default());
        let mut files: Vec<DataFile> = Vec::new();
        let mut first = 0;
        for (name, bytes) in set.list() {
            let records = match RecordKind::of_name(name) {
                Some(kind) => lines(&set, name, kind)?,
                None if is_parquet(name) => {
                    let rows = parquet::Rows::open(files.len(), set.file(name)?, pages.clone());
                    rows.map(|rows| Records::Rows(rows.into()))
                        .map_err(|reason| StoreError::File { path: name.clone(), reason })?
                }
                None => continue,
            };
            let file = DataFile { name: name.clone(), bytes: *bytes, first, records };
            first += file.count();
            files.push(file);
        }
        if files.is_empty() {
            let reason = records::NONE.into();
            return Err(StoreError::File { path: path.display().to_string(), reason });
        }
        Ok(Self { files })
    }

    /// The files that hold records.
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// How many records there are.
    pub fn len(&self) -> u64 {
        self.files.last().map_or(0, |file| file.first + file.count())
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A record: the bytes of its line, UTF-8, without the line's end; of a Parquet file, a row as a JSON object.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is no such record, or if its file cannot be read or changed since it was opened.
    pub fn record(&self, number: u64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let after = self.files.partition_point(|file| file.first <= number);
        // Of several files that begin with this number, the last has records.
        let file = after.checked_sub(1).and_then(|at| self.files.get(at));
        file.ok_or_else(|| absent(number, self.len()))?.record(number, self.len())
    }

    /// All records' numbers, in an order that depends on their count, `seed` and `epoch` alone.
    pub fn shuffled(&self, seed: u64, epoch: u64) -> Shuffle {
        Shuffle::new(self.len(), seed, epoch)
    }
}

impl DataFile {
    /// What its records are: `lines`, `jsonl` or `parquet`.
    pub fn kind(&self) -> &'static str {
        match &self.records {
            Records::Lines(index, _) => index.kind().name(),
            Records::Rows(_) => "parquet",
        }
    }

    /// How many it holds.
    pub fn count(&self) -> u64 {
        match &self.records {
            Records::Lines(index, _) => index.count(),
            Records::Rows(rows) => rows.count(),
        }
    }

    fn record(&self, number: u64, len: u64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let wanted = number - self.first;
        if wanted >= self.count() {
            return Err(absent(number, len));
        }
        match &self.records {
            Records::Lines(index, file) => self.line(index, &**file, wanted),
            Records::Rows(rows) => rows.record(wanted).map_err(|reason| StoreError::File { path: self.name.clone(), reason }),
        }
    }

    fn line(&self, index: &RecordIndex, file: &dyn ReadAt, wanted: u64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let gone = || changed(&self.name, format!("record {wanted} is no longer there"));
        let (mut record, at) = index.find(wanted).ok_or_else(gone)?;
        let mut lines = Lines { file, name: &self.name, at, ahead: Zeroizing::default(), used: 0 };
        while let Some(line) = lines.next()? {
            if is_blank(&line) {
                continue;
            }
            if record == wanted {
                return Ok(line);
            }
            record += 1;
        }
        Err(gone())
    }
}

/// The lines of a file from a place on.
struct Lines<'a> {
    file: &'a dyn ReadAt,
    name: &'a str,
    /// Where the file is read next.
    at: u64,
    /// What was read, of which `used` bytes are done with.
    ahead: Zeroizing<Vec<u8>>,
    used: usize,
}

impl Lines<'_> {
    /// The next line without its end; `None` behind the last.
    fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let mut line = Zeroizing::new(Vec::new());
        loop {
            let ahead = &self.ahead[self.used..];
            let end = ahead.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&ahead[..end.unwrap_or(ahead.len())]);
            if line.len() > MAX_RECORD {
                return Err(changed(self.name, format!("a line is longer than {MAX_RECORD} bytes")));
            }
            if let Some(end) = end {
                self.used += end + 1;
                break;
            }
            if self.at >= self.file.len() {
                self.used = self.ahead.len();
                if line.is_empty() {
                    return Ok(None);
                }
                break;
            }
            self.refill()?;
        }
        let whole = line.len() - line.iter().rev().take_while(|byte| **byte == b'\r').count();
        line.truncate(whole);
        Ok(Some(line))
    }

    fn refill(&mut self) -> Result<(), StoreError> {
        let len = (self.file.len() - self.at).min(STEP as u64);
        self.ahead.resize(len as usize, 0);
        self.file.read_exact_at(self.at, &mut self.ahead)?;
        self.at += len;
        self.used = 0;
        Ok(())
    }
}

/// A sealed file brings its index along, a plain one is read through.
fn lines(set: &FileSet, name: &str, kind: RecordKind) -> Result<Records, StoreError> {
    let file = set.file(name)?;
    let index = match set.records(name)? {
        Some(index) => index,
        None => scan(name, kind, &*file)?,
    };
    Ok(Records::Lines(index, file))
}

fn scan(name: &str, kind: RecordKind, file: &dyn ReadAt) -> Result<RecordIndex, StoreError> {
    let refused = |reason| StoreError::File { path: name.to_owned(), reason };
    let mut indexer = Indexer::new(kind);
    let mut bytes = Zeroizing::new(vec![0; file.len().min(SCAN as u64) as usize]);
    let mut at = 0;
    while at < file.len() {
        let part = (file.len() - at).min(SCAN as u64) as usize;
        file.read_exact_at(at, &mut bytes[..part])?;
        indexer.update(&bytes[..part]).map_err(refused)?;
        at += part as u64;
    }
    indexer.finish().map_err(refused)
}

fn absent(number: u64, len: u64) -> StoreError {
    StoreError::File { path: "data set".into(), reason: format!("there is no record {number}; it has {len}") }
}

fn changed(name: &str, what: String) -> StoreError {
    StoreError::File { path: name.to_owned(), reason: format!("changed since it was indexed: {what}") }
}
