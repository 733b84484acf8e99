//! A set of named files: a directory, a single file, or a sealed bundle, here or behind a URL. Everything that reads a model reads it through this.

use crate::{
    StoreError,
    checked::{Checked, Tags},
};
use coffer_checkpoint::{FileAt, ReadAt, ReadError};
use coffer_evidence::{PartDigest, signature::Ignored};
use coffer_seal::{
    Identity,
    bundle::{Bundle, SealedFile, records::RecordIndex},
    place::{self, Kind, Listed, PlacedFile},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A directory with more entries is no model.
const MAX_FILES: usize = 10_000;

/// Named files, plain or sealed.
pub struct FileSet {
    place: Place,
    path: PathBuf,
    /// Sorted by name.
    list: Vec<(String, u64)>,
    /// What each file was when its signature was verified; `None` if none was demanded.
    verified: Option<HashMap<String, Arc<Tags>>>,
}

/// A file of which every read counts, verified or not.
pub(crate) struct Unchecked(pub(crate) Arc<dyn ReadAt>);

enum Place {
    /// The directory, all links resolved.
    Directory(PathBuf),
    File,
    Bundle(Bundle),
    /// Plain files behind a URL: `true` for those in a folder, `false` for one by itself.
    Remote(Arc<dyn place::Place>, bool),
}

impl FileSet {
    /// Opens a directory, a file or a bundle; `identities` are needed for a bundle only.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is nothing at `path` or none of the identities opens the bundle.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, StoreError> {
        if Bundle::is_bundle(path) {
            return Ok(Self::of_bundle(path, Bundle::open(path, identities)?));
        }
        if place::url(path).is_some() {
            return Self::open_remote(path);
        }
        let metadata = fs::metadata(path).map_err(StoreError::io(path))?;
        let (place, list) = if metadata.is_dir() {
            let root = fs::canonicalize(path).map_err(StoreError::io(path))?;
            let list = list_directory(&root)?;
            (Place::Directory(root), list)
        } else if metadata.is_file() {
            (Place::File, vec![(file_name(path), metadata.len())])
        } else {
            return Err(StoreError::File { path: path.display().to_string(), reason: "neither a file nor a directory".into() });
        };
        Ok(Self::of(path, list, place))
    }

    /// Plain files behind a URL: one, or those directly in a folder where the server lists them.
    fn open_remote(path: &Path) -> Result<Self, StoreError> {
        let place = place::at(path).map_err(StoreError::io(path))?;
        match place.open("") {
            Ok(file) => {
                let list = vec![(file_name(path), file.len())];
                return Ok(Self::of(path, list, Place::Remote(place, false)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => (),
            Err(e) => return Err(StoreError::io(path)(e)),
        }
        let named = |listed: Listed| match listed.kind {
            Kind::File(size) => Some((listed.name, size)),
            Kind::Folder | Kind::Other => None,
        };
        let list: Vec<_> = place.list("").map_err(StoreError::io(path))?.into_iter().flatten().filter_map(named).collect();
        if list.is_empty() {
            let reason = "there is nothing of this name (and web servers list no folders: name a bundle or one file)".into();
            return Err(StoreError::File { path: path.display().to_string(), reason });
        }
        Ok(Self::of(path, list, Place::Remote(place, true)))
    }

    /// The files of an opened bundle.
    pub(crate) fn of_bundle(path: &Path, bundle: Bundle) -> Self {
        Self::of(path, bundle.files(), Place::Bundle(bundle))
    }

    fn of(path: &Path, mut list: Vec<(String, u64)>, place: Place) -> Self {
        list.sort();
        Self { place, path: path.to_owned(), list, verified: None }
    }

    /// As [`Self::open`], with the files of all directories below, but those that are ignored.
    ///
    /// # Errors
    /// Returns [`StoreError`] also if a directory holds a link, or something that is neither file nor directory.
    pub(crate) fn open_tree(path: &Path, identities: &[Identity], ignored: &Ignored) -> Result<Self, StoreError> {
        let mut files = Self::open(path, identities)?;
        match &files.place {
            Place::Directory(root) => {
                files.list.clear();
                list_tree(root, "", ignored, &mut files.list)?;
                files.list.sort();
            }
            Place::File | Place::Remote(_, false) => {}
            Place::Remote(_, true) => {
                let reason = "a plain folder behind a URL cannot be signed or verified; seal it, or name one file".into();
                return Err(StoreError::File { path: path.display().to_string(), reason });
            }
            Place::Bundle(_) => files.list.retain(|(name, _)| !ignored.covers(name)),
        }
        Ok(files)
    }

    /// Only the files that `tags` are of, each held against them at every read. Of a directory, those directly in it.
    pub(crate) fn checked(mut self, tags: HashMap<String, Arc<Tags>>) -> Self {
        let below = matches!(self.place, Place::Bundle(_));
        self.list.retain(|(name, _)| tags.contains_key(name) && (below || !name.contains('/')));
        self.verified = Some(tags);
        self
    }

    /// Whether the model is one plain file.
    pub(crate) fn is_one_file(&self) -> bool {
        matches!(self.place, Place::File | Place::Remote(_, false))
    }

    /// What the system says of the files here: names, sizes and times of change. Another stamp means that something was written
    /// meanwhile; behind a URL there is none.
    pub fn stamp(&self) -> Option<PartDigest> {
        let mut facts = String::new();
        let mut add = |path: &Path| -> io::Result<()> {
            let metadata = fs::metadata(path)?;
            facts.push_str(&format!("{}\0{}\0{}.{}\0", path.display(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
            Ok(())
        };
        let seen = match fs::metadata(&self.path).ok()?.is_dir() {
            false => add(&self.path),
            true => fs::read_dir(&self.path).and_then(|entries| {
                let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
                paths.sort();
                paths.iter().try_for_each(|path| add(path))
            }),
        };
        seen.ok().map(|()| PartDigest::of(facts.as_bytes()))
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
        let Unchecked(file) = self.open_unchecked(name)?;
        match &self.verified {
            None => Ok(file),
            Some(tags) => match tags.get(name) {
                Some(tags) => Ok(Arc::new(Checked::new(file, self.shown(name), tags.clone()))),
                None => Err(self.absent(name)),
            },
        }
    }

    /// One file as it is now, whatever it was when it was verified.
    pub(crate) fn open_unchecked(&self, name: &str) -> Result<Unchecked, StoreError> {
        Ok(Unchecked(match &self.place {
            Place::Directory(root) => Arc::new(FileAt::open(&inside(root, name)?)?),
            Place::File => Arc::new(FileAt::open(&self.path)?),
            Place::Remote(place, in_folder) => {
                let shown = self.shown(name);
                let file = place.open(if *in_folder { name } else { "" }).map_err(StoreError::io(Path::new(&shown)))?;
                Arc::new(Distant { file, name: shown })
            }
            Place::Bundle(bundle) => Arc::new(Sealed { file: bundle.file(name)?, name: self.shown(name) }),
        }))
    }

    /// The index of a sealed file's records, if it brings one along.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the index was not made by the rules, or cannot be read.
    pub fn records(&self, name: &str) -> Result<Option<RecordIndex>, StoreError> {
        match &self.place {
            Place::Bundle(bundle) => Ok(bundle.records(name)?),
            Place::Directory(_) | Place::File | Place::Remote(..) => Ok(None),
        }
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
        self.list.binary_search_by(|(n, _)| n.as_str().cmp(name)).is_ok()
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
            Place::File | Place::Remote(_, false) => self.path.display().to_string(),
            _ => format!("{}/{name}", self.path.display()),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
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

/// The files in `root` below `folder` (empty, or with `/` at its end), by their paths in `root`.
fn list_tree(root: &Path, folder: &str, ignored: &Ignored, list: &mut Vec<(String, u64)>) -> Result<(), StoreError> {
    let place = root.join(folder);
    for entry in fs::read_dir(&place).map_err(StoreError::io(&place))? {
        let path = entry.map_err(StoreError::io(&place))?.path();
        let refused = |reason: String| StoreError::File { path: path.display().to_string(), reason };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("the name is not UTF-8".into()))?;
        let name = format!("{folder}{name}");
        if ignored.covers(&name) {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).map_err(StoreError::io(&path))?;
        if metadata.is_dir() {
            list_tree(root, &format!("{name}/"), ignored, list)?;
        } else if metadata.is_file() {
            list.push((name, metadata.len()));
        } else {
            return Err(refused(
                "a link, or no file: only what lies in the directory can be signed; copy it in its place".into(),
            ));
        }
        if list.len() > MAX_FILES {
            return Err(StoreError::File { path: root.display().to_string(), reason: format!("more than {MAX_FILES} files") });
        }
    }
    Ok(())
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

/// A plain file behind a URL.
struct Distant {
    file: Box<dyn PlacedFile>,
    name: String,
}

impl ReadAt for Distant {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(at, out).map_err(|source| ReadError::Io { name: self.name.clone(), source })
    }
}
