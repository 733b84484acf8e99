//! Tensor formats: dtypes and block formats with their scalar decoding, safetensors and GGUF, over [`ReadAt`].
//!
//! This crate knows no keys: a sealed file is just another [`ReadAt`].

pub mod blocks;
pub mod compressed;
pub mod dtype;
pub mod gguf;
mod placed;
pub mod read_at;
pub mod safetensors;
pub mod sharded;
pub mod tensor;

pub use dtype::DType;
pub use gguf::GgufFile;
pub use read_at::{FileAt, MemoryAt, ReadAt, ReadError};
pub use safetensors::SafetensorsFile;
pub use sharded::ShardedSafetensors;
pub use tensor::{TensorId, TensorIndex, TensorInfo, TensorSource};
