//! A Hugging Face directory.

use super::{Sink, parent, sync_directory};
use crate::{Model, StoreError};
use coffer_checkpoint::{DType, TensorInfo, safetensors};
use coffer_model::ModelConfig;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tempfile::TempDir;

pub(super) struct Directory {
    directory: TempDir,
    weights: BufWriter<File>,
}

impl Directory {
    pub(super) fn create(out: &Path, like: &Model, tensors: &[TensorInfo]) -> Result<Self, StoreError> {
        if let Some(t) = tensors.iter().find(|t| t.dtype.is_quantized()) {
            return Err(StoreError::Quantized { tensor: t.name.clone(), dtype: t.dtype });
        }
        let beside = parent(out);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".coffer-").suffix(".partial").permissions(Permissions::from_mode(0o777));
        let directory = builder.tempdir_in(beside).map_err(StoreError::io(beside))?;
        for (name, text) in side_files(like, tensors) {
            let path = directory.path().join(name);
            let write = || {
                let mut file = File::create(&path)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            };
            write().map_err(StoreError::io(&path))?;
        }
        let path = directory.path().join("model.safetensors");
        let mut weights = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(StoreError::io(&path))?);
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::write_header(&mut weights, tensors, &metadata).map_err(StoreError::io(&path))?;
        Ok(Self { directory, weights })
    }
}

impl Sink for Directory {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.weights.write_all(bytes).map_err(StoreError::io(self.directory.path()))
    }

    fn finish(self: Box<Self>, out: &Path) -> Result<(), StoreError> {
        let weights = self.weights.into_inner().map_err(|e| StoreError::io(out)(e.into_error()))?;
        weights.sync_all().map_err(StoreError::io(out))?;
        sync_directory(self.directory.path())?;
        // Rename would replace an empty directory that appeared meanwhile, but nothing that holds anything.
        fs::rename(self.directory.path(), out).map_err(StoreError::io(out))?;
        let _renamed = self.directory.keep();
        sync_directory(parent(out))
    }
}

/// Name and text of every file but the weights.
fn side_files(like: &Model, tensors: &[TensorInfo]) -> Vec<(&'static str, String)> {
    let origin = &like.origin;
    let mut files = vec![("config.json", config(like, tensors))];
    files.extend(origin.unchanged_files().map(|(name, text)| (name, text.to_owned())));
    if let Some(tokenizer) = like.tokenizer.as_ref().filter(|_| origin.file("tokenizer.json").is_none()) {
        let template = like.template.as_ref().map(|t| t.source()).filter(|_| origin.file("chat_template.jinja").is_none());
        let (json, config) = tokenizer.to_hf(template);
        files.extend([("tokenizer.json", json), ("tokenizer_config.json", config)]);
    }
    files
}

/// `config.json`: the one that came with the model where it still says the same, with the type of the weights brought up to date.
fn config(like: &Model, tensors: &[TensorInfo]) -> String {
    let dtype = match tensors.iter().find(|t| t.shape.len() > 1).map(|t| t.dtype) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        _ => "float32",
    };
    let original = like.origin.file("config.json").filter(|text| says_the_same(text, like));
    let fields = original.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let (Some(text), Some(mut fields)) = (original, fields) else { return like.config.to_hf(dtype) };
    let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    if fields.insert(key.to_owned(), dtype.into()) == Some(dtype.into()) {
        return text.to_owned();
    }
    format!("{:#}\n", Value::Object(fields))
}

/// Whether a configuration describes this model. Start and end tokens are left to the file, which may spread them.
fn says_the_same(text: &str, like: &Model) -> bool {
    let parsed = ModelConfig::from_hf(text.as_bytes(), None);
    parsed.is_ok_and(|parsed| ModelConfig { bos: like.config.bos, eos: like.config.eos.clone(), ..parsed } == like.config)
}
