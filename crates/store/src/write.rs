//! Writing a model. Outputs appear whole or not at all.

use crate::{Model, StoreError};
use coffer_checkpoint::TensorInfo;
use std::path::Path;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory with `config.json`, `model.safetensors`, tokenizer files.
    HuggingFace,
    /// One GGUF file.
    Gguf,
}

/// Streams the tensors of a new model into a temporary name beside `out`.
pub struct ModelWriter;

impl ModelWriter {
    /// Starts a model like `like` (configuration, tokenizer, template) with the given canonical tensors, whose bytes must
    /// follow in this order. `out` must not exist.
    pub fn create(out: &Path, target: Target, like: &Model, tensors: &[TensorInfo]) -> Result<Self, StoreError> {
        let _ = (out, target, like, tensors);
        todo!()
    }
    /// Appends canonical rows of the current tensor; whole tensors may come in several pieces of whole rows.
    /// Rows are put into the container's own order here.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = bytes;
        todo!()
    }
    /// Syncs and renames. Dropping the writer instead removes what was written.
    pub fn finish(self) -> Result<(), StoreError> {
        todo!()
    }
}
