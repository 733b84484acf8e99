//! Shards: some tensors each of a model that several processes make, to be gathered later. Byte by byte: docs/spec/shard.md.

use crate::{FileSet, StoreError, write::Draft};
use coffer_checkpoint::{
    DType, ReadAt, ReadError, SafetensorsFile, TensorId, TensorIndex, TensorInfo, TensorSource,
    safetensors::{self, SafetensorsError},
};
use coffer_evidence::{PartDigest, Recipe};
use coffer_seal::Identity;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Version of the format.
const FORMAT: u32 = 1;
/// Key of the header among the metadata of the file.
const KEY: &str = "coffer_shard";
/// The last tensor: SHA-256 of each other one, in order.
const DIGESTS: &str = "coffer.digests";

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardHeader {
    /// Format of this file: 1.
    format: u32,
    /// Which shard this is, from 0.
    pub shard: u32,
    /// How many there are.
    pub of: u32,
    /// How the model is made.
    pub recipe: Recipe,
    /// What is in this shard, in order.
    pub tensors: Vec<ShardTensor>,
}

/// A tensor of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardTensor {
    /// Canonical name.
    pub name: String,
    /// Element type.
    #[serde(rename = "type")]
    pub dtype: DTypeName,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// Of the canonical bytes that it was made of.
    pub source: PartDigest,
}

/// A type by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DTypeName(pub DType);

impl From<DTypeName> for String {
    fn from(DTypeName(dtype): DTypeName) -> Self {
        dtype.name()
    }
}

impl TryFrom<String> for DTypeName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Self)
    }
}

impl ShardHeader {
    /// Of shard `shard` of `of`.
    pub fn new(shard: u32, of: u32, recipe: Recipe, tensors: Vec<ShardTensor>) -> Self {
        Self { format: FORMAT, shard, of, recipe, tensors }
    }

    fn infos(&self) -> Vec<TensorInfo> {
        let info = |t: &ShardTensor| TensorInfo { name: t.name.clone(), dtype: t.dtype.0, shape: t.shape.clone() };
        self.tensors.iter().map(info).collect()
    }
}

/// Writes a shard, plain or sealed.
pub struct ShardWriter {
    draft: Draft,
    out: PathBuf,
    /// Bytes that each tensor has.
    sizes: Vec<u64>,
    /// SHA-256 of those that are whole.
    digests: Vec<[u8; 32]>,
    current: Sha256,
    /// Bytes of the current one.
    done: u64,
}

impl ShardWriter {
    /// Starts a shard, whose tensors' canonical bytes must follow in order. The output must not exist.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the output exists or cannot be created.
    pub fn create(output: crate::Destination<'_>, header: &ShardHeader) -> Result<Self, StoreError> {
        let out = output.path;
        if std::fs::symlink_metadata(out).is_ok() {
            return Err(StoreError::Exists(out.display().to_string()));
        }
        let infos = header.infos();
        let stored = stored(&infos).ok_or_else(|| StoreError::Shard {
            path: out.display().to_string(),
            reason: "a tensor has no size that can be addressed".into(),
        })?;
        let metadata = BTreeMap::from([(KEY.to_owned(), serde_json::to_string(header).unwrap_or_default())]);
        let mut draft = Draft::file(output, "shard.safetensors")?;
        safetensors::write_header(&mut draft, &stored, &metadata).map_err(StoreError::io(out))?;
        let sizes = infos.iter().map(|t| t.bytes().unwrap_or(0)).collect();
        Ok(Self { draft, out: out.to_owned(), sizes, digests: Vec::new(), current: Sha256::new(), done: 0 })
    }

    /// Appends bytes of the current tensor.
    ///
    /// # Errors
    /// Returns [`StoreError`] if they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.current.update(bytes);
        self.done += bytes.len() as u64;
        if self.sizes.get(self.digests.len()) == Some(&self.done) {
            self.digests.push(self.current.finalize_reset().into());
            self.done = 0;
        }
        self.draft.write_all(bytes).map_err(StoreError::io(&self.out))
    }

    /// Appends the digests, syncs and renames.
    ///
    /// # Errors
    /// Returns [`StoreError`] if tensors are missing, or the output cannot be synced or renamed.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if self.digests.len() != self.sizes.len() || self.done != 0 {
            let missing = io::Error::other("tensors are missing");
            return Err(StoreError::io(&self.out)(missing));
        }
        self.draft.write_all(self.digests.as_flattened()).map_err(StoreError::io(&self.out))?;
        self.draft.complete()?.place(&self.out)
    }
}

/// What the file keeps: the rows of each tensor as bytes, then the digests.
fn stored(tensors: &[TensorInfo]) -> Option<Vec<TensorInfo>> {
    let bytes =
        |name: &str, rows, row_bytes| TensorInfo { name: name.to_owned(), dtype: DType::U8, shape: vec![rows, row_bytes] };
    let one = |t: &TensorInfo| Some(bytes(&t.name, t.rows(), t.bytes().and(t.row_bytes())?));
    let all: Option<Vec<_>> = tensors.iter().map(one).collect();
    let mut all = all?;
    all.push(bytes(DIGESTS, tensors.len() as u64, 32));
    Some(all)
}

/// A shard that was written.
pub struct Shard {
    name: String,
    header: ShardHeader,
    index: TensorIndex,
    file: SafetensorsFile,
}

impl Shard {
    /// Opens a shard, plain or sealed.
    ///
    /// # Errors
    /// Returns [`StoreError`] if there is none at `path`, or if it is not whole.
    pub fn open(path: &Path, identities: &[Identity]) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let files = FileSet::open(path, identities)?;
        match files.list() {
            [(only, _)] => Self::read(&name, files.file(only)?),
            _ => Err(StoreError::Shard { path: name, reason: "it is no shard".into() }),
        }
    }

    /// Reads a shard's header and holds it against what the file has. `name` is used in errors.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the bytes cannot be read or are no whole shard.
    pub fn read(name: &str, file: Arc<dyn ReadAt>) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Shard { path: name.to_owned(), reason };
        let file = SafetensorsFile::open(name, file).map_err(|e| match e {
            SafetensorsError::Read(e) => StoreError::Read(e),
            e => refused(format!("it is no shard, or not whole ({e})")),
        })?;
        let text = file.metadata().get(KEY).ok_or_else(|| refused("it is a safetensors file, but no shard".into()))?;
        let header: ShardHeader = serde_json::from_str(text).map_err(|e| refused(format!("its header: {e}")))?;
        if header.format != FORMAT {
            return Err(refused(format!("it is of format {}, and this program reads {FORMAT}", header.format)));
        }
        let infos = header.infos();
        let stored = stored(&infos).ok_or_else(|| refused("a tensor has no size that can be addressed".into()))?;
        if !file.index().iter().map(|(_, t)| t).eq(&stored) {
            return Err(refused("it does not hold what its header says".into()));
        }
        let index = TensorIndex::new(infos).map_err(|tensor| refused(format!("tensor {tensor} is listed twice")))?;
        Ok(Self { name: name.to_owned(), header, index, file })
    }

    /// Where it was found.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Holds every byte against the digests that were written with it; `progress` is called with the bytes of each piece.
    ///
    /// # Errors
    /// Returns [`StoreError`] if a tensor is another one, or cannot be read.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let rows = self.index.len() as u64;
        let mut expected = vec![0; self.index.len() * 32];
        if let Some(id) = self.file.index().find(DIGESTS).filter(|_| rows > 0) {
            self.file.read_rows(id, 0..rows, &mut expected)?;
        }
        for ((id, info), expected) in self.index.iter().zip(expected.chunks_exact(32)) {
            if crate::digest::of_tensor(self, id, progress)?.0 != expected {
                let reason = format!("tensor {} is not what was written; make this shard again", info.name);
                return Err(StoreError::Shard { path: self.name.clone(), reason });
            }
        }
        Ok(())
    }
}

/// In the types that the tensors have.
impl TensorSource for Shard {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.index.get(t);
        let id = self
            .file
            .index()
            .find(&info.name)
            .ok_or_else(|| ReadError::Refused { name: self.name.clone(), reason: format!("there is no tensor {}", info.name) })?;
        self.file.read_rows(id, rows, out)
    }
}
