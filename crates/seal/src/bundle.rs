//! A sealed bundle: named files under one content key, wrapped for its recipients. Byte map: docs/spec/bundle.md.

use crate::{Identity, Recipient};
use std::{
    io::{Read, Write},
    path::Path,
};

/// Writes a bundle beside its final name and renames it when it is whole.
pub struct BundleWriter;

impl BundleWriter {
    /// Starts a bundle at `path`, which must not exist.
    pub fn create(path: &Path, recipients: &[Recipient]) -> Result<Self, BundleError> {
        let _ = (path, recipients);
        todo!()
    }
    /// Seals everything `content` has to give under `name` (relative, `/`-separated).
    pub fn add(&mut self, name: &str, content: &mut dyn Read) -> Result<(), BundleError> {
        let _ = (name, content);
        todo!()
    }
    /// A writer into the bundle, for files that are made while they are sealed. Call `end` on it.
    pub fn stream<'a>(&'a mut self, name: &str) -> Result<Box<dyn EndWrite + 'a>, BundleError> {
        let _ = name;
        todo!()
    }
    /// Seals the manifest, syncs, renames.
    pub fn finish(self) -> Result<(), BundleError> {
        todo!()
    }
}

/// A writer that has to be ended, so that a last segment can be sealed as the last.
pub trait EndWrite: Write {
    /// Seals what is left.
    fn end(self: Box<Self>) -> Result<(), BundleError>;
}

/// An opened bundle.
pub struct Bundle;

impl Bundle {
    /// Whether `path` looks like a bundle; needs no key.
    pub fn is_bundle(path: &Path) -> bool {
        let _ = path;
        false
    }
    /// Unwraps the content key with the first identity that fits and opens the manifest.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, BundleError> {
        let _ = (path, identities);
        todo!()
    }
    /// Names and plaintext sizes, in the order in which they were added.
    pub fn files(&self) -> Vec<(String, u64)> {
        todo!()
    }
    /// One file, for random access. Cheap to clone behind an `Arc`; holds no plaintext beyond a few segments.
    pub fn file(&self, name: &str) -> Result<SealedFile, BundleError> {
        let _ = name;
        todo!()
    }
}

/// A file inside a bundle, decrypted by position.
pub struct SealedFile;

impl SealedFile {
    /// Plaintext length.
    pub fn len(&self) -> u64 {
        todo!()
    }
    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Decrypts and authenticates the segments that cover `at..at + out.len()`.
    pub fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), BundleError> {
        let _ = (at, out);
        todo!()
    }
}

/// Why a bundle could not be written, opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// None of the identities is a recipient.
    #[error("{path}: none of the {tried} identities given opens this bundle (it has {recipients} recipients)")]
    NoMatch {
        /// Bundle.
        path: String,
        /// Identities that were tried.
        tried: usize,
        /// Recipients of the bundle.
        recipients: usize,
    },
    /// Authentication failed.
    #[error("{path}: {part} was changed or damaged after sealing")]
    Tampered {
        /// Bundle.
        path: String,
        /// Which file and segment.
        part: String,
    },
}
