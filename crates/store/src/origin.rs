//! What a model brings along besides configuration, tokenizer, template and weights, so that it can be written again unchanged.

use crate::{FileSet, StoreError};
use coffer_checkpoint::gguf::{Metadata, Value};

/// Side files of a Hugging Face directory: name, longest length in bytes, GGUF key that carries the text.
/// The tokenizer's own files are carried by the tokenizer.
const SIDE_FILES: [(&str, u64, &str); 5] = [
    ("config.json", 1 << 20, "coffer.huggingface.config"),
    ("generation_config.json", 1 << 20, "coffer.huggingface.generation_config"),
    ("special_tokens_map.json", 1 << 20, "coffer.huggingface.special_tokens_map"),
    ("chat_template.jinja", 1 << 20, "coffer.huggingface.chat_template"),
    ("added_tokens.json", 8 << 20, "coffer.huggingface.added_tokens"),
];
/// The tokenizer's files, and how long they may be.
const TOKENIZER_FILES: [(&str, u64); 2] = [("tokenizer.json", 64 << 20), ("tokenizer_config.json", 16 << 20)];

/// Texts and names that came with a model.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// What people call the model: `general.name`, or the name of its directory.
    pub name: String,
    /// Side files of a Hugging Face directory, also those that a GGUF file carried for it.
    files: Vec<(&'static str, String)>,
    /// `general.*` of a GGUF file, except what describes the file itself.
    general: Vec<(String, Value)>,
}

impl Origin {
    pub(crate) fn from_files(name: String, files: &FileSet) -> Result<Self, StoreError> {
        let mut origin = Self { name, ..Self::default() };
        let limits = SIDE_FILES.iter().map(|&(file, limit, _)| (file, limit)).chain(TOKENIZER_FILES);
        for (file, limit) in limits {
            let Some(bytes) = files.read(file, limit)? else { continue };
            let text = String::from_utf8(bytes)
                .map_err(|e| StoreError::File { path: file.into(), reason: format!("not UTF-8: {}", e.utf8_error()) })?;
            origin.files.push((file, text));
        }
        Ok(origin)
    }

    pub(crate) fn from_metadata(name: String, metadata: &Metadata) -> Self {
        let about_file = |key: &str| {
            matches!(key, "general.architecture" | "general.file_type" | "general.quantization_version" | "general.alignment")
        };
        let general = metadata.iter().filter(|(key, _)| key.starts_with("general.") && !about_file(key));
        Self {
            name: metadata.string("general.name").map_or(name, str::to_owned),
            files: SIDE_FILES.iter().filter_map(|&(file, _, key)| Some((file, metadata.string(key)?.to_owned()))).collect(),
            general: general.map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        }
    }

    /// Text of a side file.
    pub(crate) fn file(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_str())
    }

    /// All side files but `config.json`, which depends on what is written.
    pub(crate) fn unchanged_files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.files.iter().filter(|(name, _)| *name != "config.json").map(|(name, text)| (*name, text.as_str()))
    }

    /// Writes names and carried files into GGUF metadata.
    pub(crate) fn to_gguf(&self, metadata: &mut Metadata) {
        metadata.set("general.type", Value::String("model".into()));
        metadata.set("general.name", Value::String(self.name.clone()));
        self.general.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
        for (file, _, key) in SIDE_FILES {
            if let Some(text) = self.file(file) {
                metadata.set(key, Value::String(text.to_owned()));
            }
        }
    }
}
