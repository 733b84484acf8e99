//! Why a model could not be loaded or run.

use coffer_checkpoint::{ReadError, blocks::BlockError};
use coffer_kernels::MatrixError;

/// Why a model could not be loaded or run. A failed forward pass leaves every cache as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A sequence grew past its cache.
    #[error("{wanted} tokens do not fit into a context of {context}")]
    Context {
        /// Tokens in all.
        wanted: usize,
        /// What fits.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} lies outside the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A span or a prompt without tokens.
    #[error("there are no tokens to run")]
    NoTokens,
    /// A cache that another engine made.
    #[error("the cache was made for a model of another shape")]
    ForeignCache,
    /// A tensor that the architecture needs is not there.
    #[error("tensor `{tensor}` is missing: the checkpoint is incomplete, or its configuration belongs to another model")]
    Missing {
        /// Canonical name.
        tensor: String,
    },
    /// A tensor contradicts the configuration.
    #[error("tensor `{tensor}` has shape {got:?} where the configuration demands {want:?}")]
    Shape {
        /// Canonical name.
        tensor: String,
        /// What the configuration demands.
        want: Vec<u64>,
        /// What is stored.
        got: Vec<u64>,
    },
    /// A tensor's bytes could not be read.
    #[error("tensor `{tensor}`: {source}")]
    Read {
        /// Canonical name.
        tensor: String,
        /// Why.
        source: ReadError,
    },
    /// A tensor could not be packed for the matrix product.
    #[error("tensor `{tensor}`: {source}")]
    Matrix {
        /// Canonical name.
        tensor: String,
        /// Why.
        source: MatrixError,
    },
    /// The values of a norm or a bias could not be decoded.
    #[error("tensor `{tensor}`: {source}")]
    Decode {
        /// Canonical name.
        tensor: String,
        /// Why.
        source: BlockError,
    },
    /// The system has no memory left.
    #[error("no memory for {bytes} bytes of {what}; ask for a shorter context or fewer sequences")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
    },
}

/// Lengthens `buffer` to `len` zeros or keeps it if it is longer.
pub(crate) fn grow(buffer: &mut Vec<f32>, len: usize, what: &'static str) -> Result<(), EngineError> {
    if let Some(more) = len.checked_sub(buffer.len()) {
        let bytes = len.saturating_mul(size_of::<f32>());
        buffer.try_reserve_exact(more).map_err(|_| EngineError::Memory { what, bytes })?;
        buffer.resize(len, 0.0);
    }
    Ok(())
}
