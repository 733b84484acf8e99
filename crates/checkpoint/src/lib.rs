//! Tensor formats: dtypes and block formats with their scalar decoding, safetensors and GGUF, over [`ReadAt`].
//!
//! This crate knows no keys: a sealed file is just another [`ReadAt`].

pub mod blocks;
pub mod dtype;
pub mod gguf;
pub mod read_at;
pub mod safetensors;
pub mod tensor;

pub use dtype::DType;
pub use read_at::{FileAt, MemoryAt, ReadAt, ReadError};
pub use tensor::{TensorId, TensorIndex, TensorInfo, TensorSource};
