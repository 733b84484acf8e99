//! Bytes read by position, and read front to back in bounded pieces.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Bytes of known length.
pub(crate) trait Source {
    fn len(&self) -> u64;
    /// Fills `out` from `at`; anything less is an error.
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()>;

    /// Up to `max` bytes from `at`, fewer where the source ends.
    fn read_up_to(&self, at: u64, max: usize) -> io::Result<Vec<u8>> {
        let len = self.len().saturating_sub(at).min(max as u64);
        let mut bytes = vec![0; len as usize];
        self.read_at(at, &mut bytes)?;
        Ok(bytes)
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file and the length it had when it was opened.
pub(crate) struct FileSource {
    pub(crate) file: File,
    pub(crate) len: u64,
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, at)
    }
}

/// A part of another source.
pub(crate) struct Window<'a> {
    inner: &'a dyn Source,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    /// `len` bytes from `start`; `None` if `inner` does not hold them.
    pub(crate) fn new(inner: &'a dyn Source, start: u64, len: u64) -> Option<Self> {
        (start.checked_add(len)? <= inner.len()).then_some(Self { inner, start, len })
    }
}

impl Source for Window<'_> {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_at(self.start + at, out)
    }
}

/// Why a [`Cursor`] gave no bytes.
#[derive(Debug)]
pub(crate) enum ReadStop {
    /// The source ends before them.
    End,
    /// A line or field is longer than any reader would believe.
    TooLong,
    Io(io::Error),
}

const CHUNK: usize = 64 << 10;

/// Reads a source front to back. Lengths are checked against the source before anything is allocated.
pub(crate) struct Cursor<'a> {
    source: &'a dyn Source,
    base: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(source: &'a dyn Source, start: u64) -> Self {
        Self { source, base: start, buffer: Vec::new(), at: 0 }
    }

    pub(crate) fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.source.len().saturating_sub(self.position())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadStop> {
        self.fill(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.buffer[self.at..self.at + N]);
        self.at += N;
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadStop> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ReadStop> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ReadStop> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn skip(&mut self, len: u64) -> Result<(), ReadStop> {
        if len > self.remaining() {
            return Err(ReadStop::End);
        }
        let buffered = (self.buffer.len() - self.at) as u64;
        if len <= buffered {
            self.at += len as usize;
        } else {
            self.base = self.position() + len;
            self.buffer.clear();
            self.at = 0;
        }
        Ok(())
    }

    /// The next `len` bytes if they are at most `keep`; otherwise skips them and returns `None`.
    pub(crate) fn bytes(&mut self, len: u64, keep: usize) -> Result<Option<Vec<u8>>, ReadStop> {
        if len > keep as u64 {
            self.skip(len)?;
            return Ok(None);
        }
        let len = len as usize;
        self.fill(len)?;
        let bytes = self.buffer[self.at..self.at + len].to_vec();
        self.at += len;
        Ok(Some(bytes))
    }

    /// A line without its `\n`.
    pub(crate) fn line(&mut self, max: usize) -> Result<Vec<u8>, ReadStop> {
        let mut line = Vec::new();
        loop {
            self.fill(1)?;
            let rest = &self.buffer[self.at..];
            let end = rest.iter().position(|&b| b == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            if line.len() + part.len() > max {
                return Err(ReadStop::TooLong);
            }
            line.extend_from_slice(part);
            self.at += part.len() + usize::from(end.is_some());
            if end.is_some() {
                return Ok(line);
            }
        }
    }

    /// Makes the next `len` bytes available in the buffer.
    fn fill(&mut self, len: usize) -> Result<(), ReadStop> {
        if self.buffer.len() - self.at >= len {
            return Ok(());
        }
        if len as u64 > self.remaining() {
            return Err(ReadStop::End);
        }
        let start = self.position();
        self.buffer = self.source.read_up_to(start, len.max(CHUNK)).map_err(ReadStop::Io)?;
        self.base = start;
        self.at = 0;
        Ok(())
    }
}
