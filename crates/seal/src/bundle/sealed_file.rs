//! A file inside a bundle, decrypted by position.

use super::{BundleError, data::Data};
use std::sync::Arc;

/// A file inside a bundle, for random access. Readers need not wait for one another.
pub struct SealedFile {
    data: Arc<Data>,
    name: String,
    /// Where it begins in the data stream's plaintext.
    at: u64,
    size: u64,
}

impl SealedFile {
    /// The `size` bytes from `at` on, called `name`.
    pub(super) fn new(data: Arc<Data>, name: &str, at: u64, size: u64) -> Self {
        Self { data, name: name.to_owned(), at, size }
    }

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
        self.data.read_plain(self.at + at, out)
    }
}
