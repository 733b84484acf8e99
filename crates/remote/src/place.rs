//! A remote folder, or a remote file by itself.

use crate::{
    address::{Address, Store},
    error::{Failure, RemoteError},
    file::RemoteFile,
    runtime,
};
use coffer_seal::place::{Kind, Listed, Place, PlacedFile};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, path::Path};
use std::{collections::BTreeMap, io};

/// More objects are no model.
const MAX_OBJECTS: usize = 10_000;

/// What a URL names.
pub(crate) struct Remote(pub(crate) Address);

impl Remote {
    /// The place that `url` names; nothing is asked of the server yet.
    pub(crate) fn open(url: &str) -> Result<Self, RemoteError> {
        Address::parse(url).map(Self)
    }
}

impl Place for Remote {
    fn open(&self, name: &str) -> io::Result<Box<dyn PlacedFile>> {
        let Address { store, path, shown } = &self.0;
        if name.is_empty() {
            return Ok(Box::new(RemoteFile::open(store, path, shown.clone())?));
        }
        Ok(Box::new(RemoteFile::open(store, &below(path, name)?, format!("{shown}/{name}"))?))
    }

    fn list(&self, folder: &str) -> io::Result<Option<Vec<Listed>>> {
        let Address { store, path, shown } = &self.0;
        if !store.lists {
            return Ok(None);
        }
        let root = if folder.is_empty() { path.clone() } else { below(path, folder)? };
        let mut kinds = BTreeMap::new();
        for (name, size) in objects(store, &root, shown).map_err(RemoteError::into_io)? {
            match name.split_once('/') {
                Some((folder, _)) => kinds.insert(folder.to_owned(), Kind::Folder),
                None => kinds.insert(name, Kind::File(size)),
            };
        }
        Ok(Some(kinds.into_iter().map(|(name, kind)| Listed { name, kind }).collect()))
    }
}

/// Names (relative to `root`) and sizes of all objects below it.
pub(crate) fn objects(store: &Store, root: &Path, shown: &str) -> Result<Vec<(String, u64)>, RemoteError> {
    let listed = async {
        let mut found = Vec::new();
        let mut objects = store.objects.list(Some(root));
        while let Some(object) = objects.try_next().await.map_err(|e| RemoteError::of(shown, &e))? {
            let name = object.location.as_ref().strip_prefix(root.as_ref()).and_then(|name| name.strip_prefix('/'));
            found.extend(name.map(|name| (name.to_owned(), object.size)));
            if found.len() > MAX_OBJECTS {
                let reason = format!("more than {MAX_OBJECTS} objects lie there; name the folder of one model");
                return Err(Failure::Server(reason).at(shown));
            }
        }
        Ok(found)
    };
    runtime().map_err(|e| Failure::Local(e).at(shown))?.block_on(listed)
}

/// The object `name` below `root`; a name that leads elsewhere is refused.
pub(crate) fn below(root: &Path, name: &str) -> io::Result<Path> {
    Path::parse(format!("{root}/{name}")).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))
}
