//! Opens and writes models, plain or sealed, Hugging Face directories and GGUF files, in one canonical form:
//! Hugging Face names, rows in Hugging Face order.

mod canonical;
mod checked;
pub mod convert;
pub mod dataset;
pub mod digest;
pub mod files;
#[cfg(not(feature = "parquet"))]
mod no_parquet;
pub mod open;
mod origin;
pub mod shard;
mod shuffle;
pub mod signed;
pub mod write;

pub use convert::convert;
pub use dataset::Dataset;
pub use files::FileSet;
pub use open::{Container, Model, open, open_files};
pub use origin::Origin;
pub use shard::Shard;
pub use shuffle::Shuffle;
pub use write::{Destination, ModelWriter, Nameless, Target, WorkId, gguf_overhead};

use coffer_checkpoint::DType;
#[cfg(feature = "parquet")]
use coffer_parquet as parquet;
#[cfg(not(feature = "parquet"))]
use no_parquet as parquet;

/// Why a model could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A bundle, or a file in it.
    #[error(transparent)]
    Bundle(#[from] coffer_seal::bundle::BundleError),
    /// The bytes could not be read.
    #[error(transparent)]
    Read(#[from] coffer_checkpoint::ReadError),
    /// A GGUF file.
    #[error(transparent)]
    Gguf(#[from] coffer_checkpoint::gguf::GgufError),
    /// A safetensors file.
    #[error(transparent)]
    Safetensors(#[from] coffer_checkpoint::safetensors::SafetensorsError),
    /// Several safetensors files.
    #[error(transparent)]
    Sharded(#[from] coffer_checkpoint::sharded::ShardedError),
    /// The weights could not be hashed.
    #[error(transparent)]
    Digest(#[from] coffer_evidence::DigestError),
    /// The model is not what was signed, or cannot be.
    #[error(transparent)]
    Signature(#[from] coffer_evidence::signature::SignatureError),
    /// What was verified cannot be recognized later.
    #[error(transparent)]
    Recognize(#[from] coffer_seal::recognize::RecognizeError),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is too long for what it is, or does not lie in its directory.
    #[error("{path}: {reason}")]
    File {
        /// File.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no model at this place.
    #[error("{path}: {reason}; a model is a directory with config.json and safetensors, a GGUF file, or a bundle with either")]
    NoModel {
        /// Where it was sought.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The configuration was refused.
    #[error("{path}: {source}")]
    Config {
        /// Model.
        path: String,
        /// Why.
        source: coffer_model::ConfigError,
    },
    /// The tokenizer was refused.
    #[error("{path}: {source}")]
    Tokenizer {
        /// Model.
        path: String,
        /// Why.
        source: coffer_model::TokenizerError,
    },
    /// The chat template was refused.
    #[error("{path}: {source}")]
    Template {
        /// Model.
        path: String,
        /// Why.
        source: coffer_model::TemplateError,
    },
    /// A tensor is missing, misshapen, or not one that this model should have.
    #[error("{path}: tensor {tensor}: {reason}")]
    Tensor {
        /// Model.
        path: String,
        /// Canonical name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a model that several processes make.
    #[error("{path}: {reason}")]
    Shard {
        /// File or bundle.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The output exists.
    #[error("{0} exists; choose another output or remove it")]
    Exists(String),
    /// Another process makes it.
    #[error("{0} is being written by another process; wait for it, or choose another output")]
    Busy(String),
    /// This target cannot hold tensors of this type.
    #[error("tensor {tensor} is {dtype}, which safetensors cannot hold; write GGUF, or give a float type to decode to")]
    Quantized {
        /// Canonical name.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// The bytes given to a writer do not fit what was declared.
    #[error("writing {tensor}: {reason}")]
    Sequence {
        /// Tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { path, source }
    }
}
