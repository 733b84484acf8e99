//! GGUF version 3, read by position and written as a stream. Version 2, which has the same layout, is read too.
//!
//! Source: `docs/gguf.md` of ggml. Little-endian throughout; strings are a u64 length and UTF-8.

mod cursor;
mod read;
mod types;
mod write;

pub use read::GgufFile;
pub use write::GgufWriter;

use crate::ReadError;

/// The key that holds the alignment of the tensors, and the alignment where it is absent.
const ALIGNMENT: (&str, u64) = ("general.alignment", 32);

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's own value types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array: elements of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's own value types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

/// Metadata in file order; keys are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Sets `key`, replacing what was there.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    /// `key` as a string.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::String(s)) => Some(s),
            _ => None,
        }
    }
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }
}

/// Why a GGUF file was refused or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The bytes could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The bytes could not be written.
    #[error(transparent)]
    Write(#[from] std::io::Error),
    /// Not a GGUF file at all.
    #[error("{file}: not a GGUF file: it begins with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// File.
        file: String,
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Written for a big-endian machine.
    #[error("{file}: big-endian GGUF is not supported; convert it with gguf-py's gguf-convert-endian first")]
    BigEndian {
        /// File.
        file: String,
    },
    /// Another version of the format.
    #[error("{file}: GGUF version {version} is not supported, only 2 and 3; convert the model again with a current tool")]
    Version {
        /// File.
        file: String,
        /// Version found.
        version: u32,
    },
    /// The header contradicts itself or the length of the file.
    #[error("{file}: {field}: {reason}; the file is truncated or corrupt, fetch it again")]
    Header {
        /// File.
        file: String,
        /// The part of the header.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor contradicts itself, another one or the length of the file.
    #[error("{file}: tensor {tensor}: {reason}; the file is truncated or corrupt, fetch it again")]
    Tensor {
        /// File.
        file: String,
        /// Tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An element type that Coffer does not run.
    #[error(
        "{file}: tensor {tensor}: ggml type {number} ({name}) is not supported; supported are F32, F16, BF16, F64, I8 to I64, \
         Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL and IQ4_XS"
    )]
    Type {
        /// File.
        file: String,
        /// Tensor.
        tensor: String,
        /// ggml's number of the type.
        number: u32,
        /// ggml's name of the type.
        name: &'static str,
    },
    /// What was to be written is no valid GGUF file.
    #[error("cannot write GGUF: {0}")]
    Unwritable(String),
}
