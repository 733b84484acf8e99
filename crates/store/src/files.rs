//! A set of named files: a directory, a single file, or a sealed bundle. Everything that reads a model reads it through this.

use crate::StoreError;
use coffer_checkpoint::ReadAt;
use coffer_seal::Identity;
use std::{path::Path, sync::Arc};

/// Named files, plain or sealed.
pub struct FileSet;

impl FileSet {
    /// Opens a directory, a file or a bundle; `identities` are needed for a bundle only.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, StoreError> {
        let _ = (path, identities);
        todo!()
    }
    /// Whether the files come out of a bundle.
    pub fn is_sealed(&self) -> bool {
        todo!()
    }
    /// Names (relative, `/`-separated) and sizes, sorted by name.
    pub fn list(&self) -> &[(String, u64)] {
        todo!()
    }
    /// One file by position.
    pub fn file(&self, name: &str) -> Result<Arc<dyn ReadAt>, StoreError> {
        let _ = name;
        todo!()
    }
    /// A whole small file, refused above `limit` bytes; `None` if there is no such file.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = (name, limit);
        todo!()
    }
}
