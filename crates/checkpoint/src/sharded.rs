//! A model in several safetensors files, listed in `model.safetensors.index.json`.

use crate::{
    ReadAt, ReadError, SafetensorsFile, TensorId, TensorIndex, TensorSource,
    safetensors::{MAX_HEADER, SafetensorsError, UniqueStrings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

/// Several safetensors files read as one. Tensors are ordered by shard name, then as in the shard.
pub struct ShardedSafetensors {
    index: TensorIndex,
    shards: Vec<SafetensorsFile>,
    /// For each tensor, its shard and its position there.
    places: Vec<(usize, TensorId)>,
}

impl ShardedSafetensors {
    /// Opens every shard that the index file `name` lists, by `open(shard name)`, and checks each against the list.
    ///
    /// # Errors
    /// Returns [`ShardedError`] if the index is malformed, names a path outside its folder, or if it and the shards
    /// disagree on where a tensor is.
    pub fn open(
        name: &str,
        index: &dyn ReadAt,
        mut open: impl FnMut(&str) -> Result<Arc<dyn ReadAt>, ReadError>,
    ) -> Result<Self, ShardedError> {
        let map = read_weight_map(name, index)?;
        let mismatch =
            |tensor: &str, reason: String| ShardedError::Tensor { file: name.to_owned(), tensor: tensor.to_owned(), reason };
        let shard_names: BTreeSet<&str> = map.values().map(String::as_str).collect();
        let (mut infos, mut places, mut shards) = (Vec::with_capacity(map.len()), Vec::new(), Vec::new());
        for shard_name in shard_names {
            let shard = SafetensorsFile::open(shard_name, open(shard_name)?)?;
            for (id, info) in shard.index().iter() {
                match map.get(&info.name) {
                    Some(listed) if listed == shard_name => {}
                    Some(listed) => {
                        return Err(mismatch(&info.name, format!("found in {shard_name}, listed in {listed}")));
                    }
                    None => return Err(mismatch(&info.name, format!("found in {shard_name}, but not listed"))),
                }
                infos.push(info.clone());
                places.push((shards.len(), id));
            }
            shards.push(shard);
        }
        let index = TensorIndex::new(infos).map_err(|tensor| mismatch(&tensor, "found twice".to_owned()))?;
        match map.iter().find(|(tensor, _)| index.find(tensor).is_none()) {
            Some((tensor, shard)) => Err(mismatch(tensor, format!("listed in {shard}, but not there"))),
            None => Ok(Self { index, shards, places }),
        }
    }

    /// The shards, by name.
    pub fn shards(&self) -> &[SafetensorsFile] {
        &self.shards
    }
}

impl TensorSource for ShardedSafetensors {
    fn index(&self) -> &TensorIndex {
        &self.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        match self.places.get(t.0) {
            Some(&(shard, id)) => self.shards[shard].read_rows(id, rows, out),
            None => Err(ReadError::Refused {
                name: "sharded model".to_owned(),
                reason: format!("there is no tensor {}, only {}", t.0, self.places.len()),
            }),
        }
    }
}

/// Why a sharded model was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardedError {
    /// The bytes could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A shard was refused.
    #[error(transparent)]
    Shard(#[from] SafetensorsError),
    /// The index file is not what it must be.
    #[error("{file}: {reason}; fetch the model again or write a new index")]
    Index {
        /// Index file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Index and shards disagree on a tensor.
    #[error("{file}: tensor {tensor}: {reason}; index and shards are not of the same model, fetch it again")]
    Tensor {
        /// Index file.
        file: String,
        /// Tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(serde::Deserialize)]
struct IndexFile {
    weight_map: UniqueStrings,
}

fn read_weight_map(name: &str, index: &dyn ReadAt) -> Result<BTreeMap<String, String>, ShardedError> {
    let refuse = |reason: String| ShardedError::Index { file: name.to_owned(), reason };
    let len = index.len();
    if len > MAX_HEADER {
        return Err(refuse(format!("{len} bytes exceed the limit of {MAX_HEADER}")));
    }
    let mut json = vec![0; len as usize];
    index.read_exact_at(0, &mut json)?;
    let map = serde_json::from_slice::<IndexFile>(&json).map_err(|e| refuse(e.to_string()))?.weight_map.0;
    if map.is_empty() {
        return Err(refuse("weight_map is empty".to_owned()));
    }
    match map.iter().find(|(_, shard)| !is_plain_name(shard)) {
        Some((tensor, shard)) => Err(refuse(format!("tensor {tensor}: {shard:?} is no plain file name"))),
        None => Ok(map),
    }
}

/// Whether `name` stays in its folder: no separators, no `..`, nothing hidden, no control characters.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':']) && !name.contains(char::is_control)
}
