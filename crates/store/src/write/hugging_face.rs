//! A Hugging Face directory.

use super::{
    Sink,
    draft::{Destination, Draft},
};
use crate::{Model, StoreError};
use coffer_checkpoint::{DType, TensorInfo, compressed, safetensors};
use coffer_model::ModelConfig;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    path::Path,
};

pub(super) struct HuggingFaceSink {
    weights: Draft,
    /// Tensors that are not whole yet.
    left: VecDeque<TensorInfo>,
    /// Bytes of the first of them that came.
    done: u64,
    /// They themselves, if it lies in several parts.
    held: Vec<u8>,
}

impl HuggingFaceSink {
    pub(super) fn create(output: Destination<'_>, like: &Model, tensors: &[TensorInfo]) -> Result<Self, StoreError> {
        if let Some(t) = tensors.iter().find(|t| t.dtype.is_quantized() && !t.dtype.is_compressed()) {
            return Err(StoreError::Quantized { tensor: t.name.clone(), dtype: t.dtype });
        }
        let mut weights = Draft::directory(output, &side_files(like, tensors), "model.safetensors")?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let parts: Vec<TensorInfo> = tensors.iter().flat_map(compressed::parts).collect();
        safetensors::write_header(&mut weights, &parts, &metadata).map_err(StoreError::io(output.path))?;
        Ok(Self { weights, left: tensors.iter().cloned().collect(), done: 0, held: Vec::new() })
    }
}

impl Sink for HuggingFaceSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(current) = self.left.front() else { return Ok(()) };
        self.done += bytes.len() as u64;
        let whole = current.bytes() == Some(self.done);
        let written = if !current.dtype.is_compressed() {
            self.weights.write_all(bytes)
        } else {
            self.held.extend_from_slice(bytes);
            if whole { self.weights.write_all(&compressed::split(current, &std::mem::take(&mut self.held))) } else { Ok(()) }
        };
        if whole {
            self.left.pop_front();
            self.done = 0;
        }
        written.map_err(StoreError::io(Path::new("model.safetensors")))
    }

    fn draft(&mut self) -> &mut Draft {
        &mut self.weights
    }

    fn end(self: Box<Self>) -> Result<Draft, StoreError> {
        Ok(self.weights)
    }
}

const QUANTIZATION: &str = "quantization_config";

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

/// `config.json`: the one that came with the model where it still says the same, with the type of the weights and how they are
/// compressed brought up to date.
fn config(like: &Model, tensors: &[TensorInfo]) -> String {
    let dtype = match tensors.iter().find(|t| t.shape.len() > 1 && !t.dtype.is_compressed()).map(|t| t.dtype) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        _ => "float32",
    };
    let original = like.origin.file("config.json").filter(|text| says_the_same(text, like));
    let text = original.map_or_else(|| like.config.to_hf(dtype), str::to_owned);
    let Ok(before) = serde_json::from_str::<Map<String, Value>>(&text) else { return text };
    let mut fields = before.clone();
    let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    fields.insert(key.to_owned(), dtype.into());
    match compressed::quantization_config(tensors) {
        Some(quantization) => fields.insert(QUANTIZATION.to_owned(), quantization),
        None => fields.remove(QUANTIZATION),
    };
    if fields == before { text } else { format!("{:#}\n", Value::Object(fields)) }
}

/// Whether a configuration describes this model. Start and end tokens are left to the file, which may spread them.
fn says_the_same(text: &str, like: &Model) -> bool {
    let parsed = ModelConfig::from_hf(text.as_bytes(), None);
    parsed.is_ok_and(|parsed| ModelConfig { bos: like.config.bos, eos: like.config.eos.clone(), ..parsed } == like.config)
}
