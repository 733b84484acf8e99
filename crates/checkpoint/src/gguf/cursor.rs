//! Reads the header of a GGUF file front to back. No length is believed before the file is seen to hold it.

use super::GgufError;
use crate::ReadAt;

/// Longest header that is read. Vocabularies of 256 k tokens with merges need about 20 MB.
const MAX_HEADER: u64 = 256 << 20;
const CHUNK: u64 = 256 << 10;

/// A position in the header, with the bytes around it.
pub(super) struct Cursor<'a> {
    name: &'a str,
    file: &'a dyn ReadAt,
    /// Bytes that may be read: the file's length or `MAX_HEADER`.
    limit: u64,
    /// Where `buffer` begins in the file.
    base: u64,
    buffer: Vec<u8>,
    /// Position in `buffer`.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(name: &'a str, file: &'a dyn ReadAt) -> Self {
        Self { name, file, limit: file.len().min(MAX_HEADER), base: 0, buffer: Vec::new(), at: 0 }
    }

    /// Position in the file.
    pub(super) fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Bytes that the header may still have.
    pub(super) fn remaining(&self) -> u64 {
        self.limit - self.position()
    }

    /// The next `N` bytes as they are.
    pub(super) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N as u64)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn string(&mut self, field: &str) -> Result<String, GgufError> {
        let len = self.u64(field)?;
        let bytes = self.take(field, len)?.to_vec();
        String::from_utf8(bytes).map_err(|e| self.refuse(field, format!("a string is not UTF-8: {e}")))
    }

    /// A number of items of at least `min_bytes` each, refused if the file cannot hold them.
    pub(super) fn count(&mut self, field: &str, min_bytes: u64) -> Result<u64, GgufError> {
        let count = self.u64(field)?;
        match count.checked_mul(min_bytes) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => {
                Err(self
                    .refuse(field, format!("{count} items of {min_bytes} bytes or more, but {} bytes remain", self.remaining())))
            }
        }
    }

    pub(super) fn refuse(&self, field: &str, reason: String) -> GgufError {
        GgufError::Header { file: self.name.to_owned(), field: field.to_owned(), reason }
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, field: &str, len: u64) -> Result<&[u8], GgufError> {
        if len > self.remaining() {
            let reason = if self.limit < self.file.len() {
                format!("{len} bytes wanted at byte {}: the header exceeds {MAX_HEADER} bytes", self.position())
            } else {
                format!("{len} bytes wanted at byte {} of {}", self.position(), self.limit)
            };
            return Err(self.refuse(field, reason));
        }
        let wanted = len as usize;
        if self.buffer.len() - self.at < wanted {
            self.base = self.position();
            self.at = 0;
            let refill = len.max(CHUNK).min(self.limit - self.base);
            self.buffer.resize(refill as usize, 0);
            self.file.read_exact_at(self.base, &mut self.buffer)?;
        }
        let start = self.at;
        self.at += wanted;
        Ok(&self.buffer[start..self.at])
    }
}
