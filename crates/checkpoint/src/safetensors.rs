//! safetensors, read by position and written as a stream.
//!
//! The format: a u64 length N, N bytes of JSON (name → dtype, shape, data_offsets relative to the end of the header;
//! `__metadata__` holds strings), then the tensors' bytes without holes. Source: the safetensors crate's README and its
//! `validate`; what the reference refuses is refused here.

mod header;

pub(crate) use header::UniqueStrings;

use crate::{DType, ReadAt, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, placed::Placed};
use header::{Entry, Header};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
    ops::Range,
    sync::Arc,
};

/// Longest header that is read or written, as in the reference implementation.
pub const MAX_HEADER: u64 = 100_000_000;

/// One safetensors file. Tensors are in the order of their bytes.
pub struct SafetensorsFile {
    tensors: Placed,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Parses the header and checks it against the length of the file. `name` is used in errors.
    ///
    /// # Errors
    /// Returns [`SafetensorsError`] if the bytes cannot be read or contradict the format.
    pub fn open(name: &str, file: Arc<dyn ReadAt>) -> Result<Self, SafetensorsError> {
        let json = read_header(name, &*file)?;
        let header = serde_json::from_slice::<Header>(&json)
            .map_err(|e| SafetensorsError::Header { file: name.to_owned(), reason: e.to_string() })?;
        let data_start = 8 + json.len() as u64;
        let (infos, starts) = place(name, header.tensors, data_start, file.len() - data_start)?;
        let index = TensorIndex::new(infos).map_err(|tensor| SafetensorsError::Header {
            file: name.to_owned(),
            reason: format!("tensor {tensor} is listed twice"),
        })?;
        Ok(Self { tensors: Placed { name: name.to_owned(), file, index, starts }, metadata: header.metadata })
    }

    /// The `__metadata__` map.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

impl TensorSource for SafetensorsFile {
    fn index(&self) -> &TensorIndex {
        &self.tensors.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        self.tensors.read_rows(t, rows, out)
    }
}

/// Writes the length, the header and its padding for `tensors`; their bytes must follow in this order.
///
/// # Errors
/// Besides errors of `out`: `InvalidInput` if a name is empty, reserved or used twice, if safetensors has no such
/// element type, if sizes overflow, or if the header would exceed [`MAX_HEADER`].
pub fn write_header(out: &mut dyn Write, tensors: &[TensorInfo], metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let mut json = serde_json::Map::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        json.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    let (mut end, mut names) = (0u64, HashSet::with_capacity(tensors.len()));
    for t in tensors {
        if t.name.is_empty() || t.name == "__metadata__" || !names.insert(t.name.as_str()) {
            return Err(invalid(format!("safetensors: the tensor name {:?} is empty, reserved or used twice", t.name)));
        }
        let dtype = dtype_name(t.dtype)
            .ok_or_else(|| invalid(format!("tensor {}: safetensors has no element type {}", t.name, t.dtype)))?;
        let start = end;
        end = t
            .bytes()
            .and_then(|n| start.checked_add(n))
            .ok_or_else(|| invalid(format!("tensor {}: the size of shape {:?} overflows", t.name, t.shape)))?;
        let entry = serde_json::json!({"dtype": dtype, "shape": t.shape, "data_offsets": [start, end]});
        json.insert(t.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&json)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > MAX_HEADER {
        return Err(invalid(format!("a safetensors header of {} bytes exceeds {MAX_HEADER}", header.len())));
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

/// Why a safetensors file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The bytes could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is shorter than its header, or the header longer than allowed.
    #[error(
        "{file}: a header of {claimed} bytes does not fit (file {len} bytes, limit {MAX_HEADER}); \
         the file is truncated, corrupt or no safetensors"
    )]
    HeaderLength {
        /// File.
        file: String,
        /// Length that the first eight bytes claim.
        claimed: u64,
        /// Length of the file.
        len: u64,
    },
    /// The header is not the JSON it must be.
    #[error("{file}: header: {reason}; the file is corrupt, fetch it again")]
    Header {
        /// File.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor contradicts itself or the file.
    #[error("{file}: tensor {tensor}: {reason}; the file is corrupt, fetch it again")]
    Tensor {
        /// File.
        file: String,
        /// Tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An element type that Coffer does not know.
    #[error("{file}: tensor {tensor}: element type {dtype:?} is not supported; convert the model to BF16, F16 or F32 first")]
    DType {
        /// File.
        file: String,
        /// Tensor.
        tensor: String,
        /// The type as written.
        dtype: String,
    },
    /// Bytes that belong to no tensor.
    #[error("{file}: bytes {start}..{end} of the data belong to no tensor; the file is truncated, corrupt or hides something")]
    Unused {
        /// File.
        file: String,
        /// First such byte, counted from the end of the header.
        start: u64,
        /// First byte behind them.
        end: u64,
    },
}

fn read_header(name: &str, file: &dyn ReadAt) -> Result<Vec<u8>, SafetensorsError> {
    let len = file.len();
    let mut prefix = [0; 8];
    if len >= 8 {
        file.read_exact_at(0, &mut prefix)?;
    }
    let claimed = u64::from_le_bytes(prefix);
    if len < 8 || claimed > MAX_HEADER || claimed > len - 8 {
        return Err(SafetensorsError::HeaderLength { file: name.to_owned(), claimed, len });
    }
    let mut json = vec![0; claimed as usize];
    file.read_exact_at(8, &mut json)?;
    if json.first() != Some(&b'{') {
        let reason = "it does not begin with an opening brace".to_owned();
        return Err(SafetensorsError::Header { file: name.to_owned(), reason });
    }
    Ok(json)
}

/// Orders the tensors by their bytes and checks that these fill the `data_len` bytes of data without hole or overlap.
fn place(
    file: &str,
    mut entries: Vec<(String, Entry)>,
    data_start: u64,
    data_len: u64,
) -> Result<(Vec<TensorInfo>, Vec<u64>), SafetensorsError> {
    entries.sort_by(|(a_name, a), (b_name, b)| (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name)));
    let (mut infos, mut starts) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    let mut end = 0;
    for (name, entry) in entries {
        let [from, to] = entry.data_offsets;
        let wrong = |reason: String| SafetensorsError::Tensor { file: file.to_owned(), tensor: name.clone(), reason };
        if from < end {
            return Err(wrong(format!("its bytes {from}..{to} overlap the tensor before it, which ends at {end}")));
        }
        if from > end {
            return Err(SafetensorsError::Unused { file: file.to_owned(), start: end, end: from });
        }
        if to < from || to > data_len {
            return Err(wrong(format!("its bytes {from}..{to} lie outside the {data_len} bytes of data")));
        }
        let Some(dtype) = dtype_named(&entry.dtype) else {
            return Err(SafetensorsError::DType { file: file.to_owned(), tensor: name, dtype: entry.dtype });
        };
        let info = TensorInfo { name: name.clone(), dtype, shape: entry.shape };
        let bytes = info.bytes();
        if bytes != Some(to - from) {
            let needed = bytes.map_or("more than 2^64".to_owned(), |n| n.to_string());
            return Err(wrong(format!("{dtype} {:?} needs {needed} bytes, data_offsets hold {}", info.shape, to - from)));
        }
        infos.push(info);
        starts.push(data_start + from);
        end = to;
    }
    if end != data_len {
        return Err(SafetensorsError::Unused { file: file.to_owned(), start: end, end: data_len });
    }
    Ok((infos, starts))
}

const DTYPES: [(&str, DType); 11] = [
    ("F64", DType::F64),
    ("F32", DType::F32),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("I64", DType::I64),
    ("I32", DType::I32),
    ("I16", DType::I16),
    ("I8", DType::I8),
    ("U8", DType::U8),
    ("BOOL", DType::Bool),
    ("F8_E4M3", DType::F8_E4M3),
];

fn dtype_named(name: &str) -> Option<DType> {
    DTYPES.iter().find(|(n, _)| *n == name).map(|&(_, d)| d)
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, d)| *d == dtype).map(|&(n, _)| n)
}
