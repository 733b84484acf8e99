//! Reading by position. Files are never mapped: a mapped file can change under a signature check.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// Bytes that can be read at any position, from several threads at once.
pub trait ReadAt: Send + Sync {
    /// Total length in bytes.
    fn len(&self) -> u64;
    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `out` with the bytes that start at `at`; anything less is an error.
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError>;
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The operating system refused.
    #[error("{name}: {source}")]
    Io {
        /// What was read.
        name: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The range lies outside the file.
    #[error("{name}: bytes {at}..{end} lie outside the file of {len} bytes", end = at.saturating_add(*wanted))]
    OutOfRange {
        /// What was read.
        name: String,
        /// First byte asked for.
        at: u64,
        /// How many were asked for.
        wanted: u64,
        /// How many there are.
        len: u64,
    },
    /// A sealed stream failed authentication, or anything else a source has to say.
    #[error("{name}: {reason}")]
    Refused {
        /// What was read.
        name: String,
        /// Why it was refused.
        reason: String,
    },
}

/// An ordinary file.
pub struct FileAt {
    file: File,
    len: u64,
    name: String,
}

impl FileAt {
    /// Opens `path` for reading.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        let io = |source| ReadError::Io { name: path.display().to_string(), source };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self { file, len, name })
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        check_range(&self.name, at, out.len(), self.len)?;
        self.file.read_exact_at(out, at).map_err(|source| ReadError::Io { name: self.name.clone(), source })
    }
}

/// Bytes in memory.
pub struct MemoryAt {
    bytes: Vec<u8>,
    name: String,
}

impl MemoryAt {
    /// Wraps `bytes`; `name` is used in errors.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { bytes, name: name.into() }
    }
}

impl ReadAt for MemoryAt {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        check_range(&self.name, at, out.len(), self.len())?;
        let start = at as usize;
        out.copy_from_slice(&self.bytes[start..start + out.len()]);
        Ok(())
    }
}

fn check_range(name: &str, at: u64, wanted: usize, len: u64) -> Result<(), ReadError> {
    match at.checked_add(wanted as u64) {
        Some(end) if end <= len => Ok(()),
        _ => Err(ReadError::OutOfRange { name: name.to_owned(), at, wanted: wanted as u64, len }),
    }
}
