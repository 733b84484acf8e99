//! A Hugging Face directory.

use super::{
    Sink,
    draft::{Destination, Draft},
};
use crate::{Model, StoreError};
use coffer_checkpoint::{DType, TensorInfo, safetensors};
use coffer_model::ModelConfig;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, io::Write, path::Path};

pub(super) struct HuggingFaceSink {
    weights: Draft,
}

impl HuggingFaceSink {
    pub(super) fn create(output: Destination<'_>, like: &Model, tensors: &[TensorInfo]) -> Result<Self, StoreError> {
        if let Some(t) = tensors.iter().find(|t| t.dtype.is_quantized()) {
            return Err(StoreError::Quantized { tensor: t.name.clone(), dtype: t.dtype });
        }
        let mut weights = Draft::directory(output, &side_files(like, tensors), "model.safetensors")?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::write_header(&mut weights, tensors, &metadata).map_err(StoreError::io(output.path))?;
        Ok(Self { weights })
    }
}

impl Sink for HuggingFaceSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.weights.write_all(bytes).map_err(StoreError::io(Path::new("model.safetensors")))
    }

    fn finish(self: Box<Self>, out: &Path) -> Result<(), StoreError> {
        self.weights.finish(out)
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
