//! Opens and writes models, plain or sealed, Hugging Face directories and GGUF files, in one canonical form:
//! Hugging Face names, rows in Hugging Face order.

pub mod files;
pub mod open;
pub mod write;

pub use files::FileSet;
pub use open::{Container, Model, open};
pub use write::{ModelWriter, Target};

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
}
