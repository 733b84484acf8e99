//! A set of named files: a directory, a single file, or a sealed bundle. Everything that reads a model reads it through this.

use crate::StoreError;
use coffer_checkpoint::{FileAt, ReadAt, ReadError};
use coffer_seal::{
    Identity,
    bundle::{Bundle, SealedFile},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A directory with more entries is no model.
const MAX_FILES: usize = 10_000;

/// Named files, plain or sealed.
pub struct FileSet {
    place: Place,
    path: PathBuf,
    list: Vec<(String, u64)>,
}

enum Place {
    /// The directory, all links resolved.
    Directory(PathBuf),
    File,
    Bundle(Bundle),
}

impl FileSet {
    /// Opens a directory, a file or a bundle; `identities` are needed for a bundle only.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is nothing at `path` or none of the identities opens the bundle.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, StoreError> {
        let metadata = fs::metadata(path).map_err(StoreError::io(path))?;
        let (place, mut list) = if Bundle::is_bundle(path) {
            let bundle = Bundle::open(path, identities)?;
            let list = bundle.files();
            (Place::Bundle(bundle), list)
        } else if metadata.is_dir() {
            let root = fs::canonicalize(path).map_err(StoreError::io(path))?;
            let list = list_directory(&root)?;
            (Place::Directory(root), list)
        } else if metadata.is_file() {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            (Place::File, vec![(name, metadata.len())])
        } else {
            return Err(StoreError::File { path: path.display().to_string(), reason: "neither a file nor a directory".into() });
        };
        list.sort();
        Ok(Self { place, path: path.to_owned(), list })
    }

    /// Whether the files come out of a bundle.
    pub fn is_sealed(&self) -> bool {
        matches!(self.place, Place::Bundle(_))
    }

    /// Names (relative, `/`-separated) and sizes, sorted by name. Of a directory, the files directly in it.
    pub fn list(&self) -> &[(String, u64)] {
        &self.list
    }

    /// One file by position.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is no such file, or if it is a link that leads out of the directory.
    pub fn file(&self, name: &str) -> Result<Arc<dyn ReadAt>, StoreError> {
        if !self.has(name) {
            return Err(self.absent(name));
        }
        Ok(match &self.place {
            Place::Directory(root) => Arc::new(FileAt::open(&inside(root, name)?)?),
            Place::File => Arc::new(FileAt::open(&self.path)?),
            Place::Bundle(bundle) => Arc::new(Sealed { file: bundle.file(name)?, name: self.shown(name) }),
        })
    }

    /// A whole small file, refused above `limit` bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the file is above the limit or cannot be read.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.has(name) && !self.is_link(name) {
            return Ok(None);
        }
        let file = self.file(name)?;
        if file.len() > limit {
            let reason = format!("{} bytes are above the limit of {limit} for this file", file.len());
            return Err(StoreError::File { path: self.shown(name), reason });
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(n, _)| n == name)
    }

    fn is_link(&self, name: &str) -> bool {
        matches!(&self.place, Place::Directory(root) if fs::symlink_metadata(root.join(name)).is_ok_and(|m| m.is_symlink()))
    }

    fn absent(&self, name: &str) -> StoreError {
        let reason = match self.is_link(name) {
            true => "a link that leads out of the directory; copy the file in its place".to_owned(),
            false => "there is no such file".to_owned(),
        };
        StoreError::File { path: self.shown(name), reason }
    }

    fn shown(&self, name: &str) -> String {
        match self.place {
            Place::File => self.path.display().to_string(),
            _ => format!("{}/{name}", self.path.display()),
        }
    }
}

/// The files directly in `root`; links that lead out of it are left out.
fn list_directory(root: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let mut list = Vec::new();
    for entry in fs::read_dir(root).map_err(StoreError::io(root))? {
        let entry = entry.map_err(StoreError::io(root))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(path) = inside(root, &name) else { continue };
        let metadata = fs::metadata(&path).map_err(StoreError::io(&path))?;
        if metadata.is_file() {
            list.push((name, metadata.len()));
        }
        if list.len() > MAX_FILES {
            return Err(StoreError::File { path: root.display().to_string(), reason: format!("more than {MAX_FILES} files") });
        }
    }
    Ok(list)
}

/// The file that `name` stands for once all links are followed; it must lie under `root`.
fn inside(root: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let path = root.join(name);
    let real = fs::canonicalize(&path).map_err(StoreError::io(&path))?;
    match real.starts_with(root) {
        true => Ok(real),
        false => Err(StoreError::File { path: path.display().to_string(), reason: "leads out of the directory".into() }),
    }
}

/// A file of a bundle as what the formats read.
struct Sealed {
    file: SealedFile,
    name: String,
}

impl ReadAt for Sealed {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let refused = |e: coffer_seal::bundle::BundleError| ReadError::Refused { name: self.name.clone(), reason: e.to_string() };
        self.file.read_exact_at(at, out).map_err(refused)
    }
}
