//! Formats that hold no archive and no plain pickle.

pub(crate) mod code;
pub(crate) mod gguf;
pub(crate) mod hdf5;
pub(crate) mod json;
pub(crate) mod numpy;
pub(crate) mod safetensors;
pub(crate) mod template;
