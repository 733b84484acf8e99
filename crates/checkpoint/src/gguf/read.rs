//! Reading: header, metadata, tensor list, and rows by position.

use super::{
    ALIGNMENT, Array, GgufError, Metadata, Value,
    cursor::Cursor,
    types::{dtype_of, value},
};
use crate::{ReadAt, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, placed::Placed};
use std::{collections::HashSet, ops::Range, sync::Arc};

/// Most dimensions a tensor of ggml can have.
const MAX_DIMS: u32 = 4;

/// One GGUF file. Tensor names are the file's own; shapes are outermost first.
pub struct GgufFile {
    tensors: Placed,
    metadata: Metadata,
}

impl GgufFile {
    /// Parses and checks the header against the length of the file. `name` is used in errors.
    ///
    /// # Errors
    /// Returns [`GgufError`] if the bytes cannot be read, contradict the format, or hold types that are not supported.
    pub fn open(name: &str, file: Arc<dyn ReadAt>) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(name, &*file);
        check_version(name, &mut cursor)?;
        // A tensor is at least a name's length, the number of dimensions, the type and the offset.
        let tensor_count = cursor.count("tensor count", 8 + 4 + 4 + 8)?;
        let entry_count = cursor.count("metadata count", 8 + 4 + 1)?;
        let metadata = read_metadata(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata).map_err(|reason| cursor.refuse(ALIGNMENT.0, reason))?;
        let declared = (0..tensor_count).map(|i| read_tensor(name, &mut cursor, i)).collect::<Result<Vec<_>, _>>()?;
        let data_start = cursor.position().next_multiple_of(alignment);
        let starts = place(name, &declared, data_start, alignment, file.len())?;
        let infos = declared.into_iter().map(|(info, _)| info).collect();
        let index = TensorIndex::new(infos).map_err(|tensor| GgufError::Tensor {
            file: name.to_owned(),
            tensor,
            reason: "listed twice".to_owned(),
        })?;
        Ok(Self { tensors: Placed { name: name.to_owned(), file, index, starts }, metadata })
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl TensorSource for GgufFile {
    fn index(&self) -> &TensorIndex {
        &self.tensors.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        self.tensors.read_rows(t, rows, out)
    }
}

/// The alignment of tensor data that `metadata` asks for.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, String> {
    match metadata.get(ALIGNMENT.0) {
        None => Ok(ALIGNMENT.1),
        Some(&Value::U32(n)) if n.is_power_of_two() && n <= 1 << 20 => Ok(u64::from(n)),
        Some(Value::U32(n)) => Err(format!("{n} is no power of two up to 2^20")),
        Some(_) => Err("not a u32".to_owned()),
    }
}

fn check_version(name: &str, cursor: &mut Cursor<'_>) -> Result<(), GgufError> {
    let found = cursor.array("magic")?;
    if found != *b"GGUF" {
        return Err(GgufError::Magic { file: name.to_owned(), found });
    }
    match cursor.u32("version")? {
        2 | 3 => Ok(()),
        // A small version number read from the wrong end.
        version if version & 0xFFFF == 0 && version != 0 => Err(GgufError::BigEndian { file: name.to_owned() }),
        version => Err(GgufError::Version { file: name.to_owned(), version }),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let (mut metadata, mut seen) = (Metadata::default(), HashSet::new());
    for i in 0..count {
        let key = cursor.string(&format!("key {i}"))?;
        if !seen.insert(key.clone()) {
            return Err(cursor.refuse(&key, "the key occurs twice".to_owned()));
        }
        let value = read_value(cursor, &key)?;
        metadata.entries.push((key, value));
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    Ok(match cursor.u32(key)? {
        value::U8 => Value::U8(u8::from_le_bytes(cursor.array(key)?)),
        value::I8 => Value::I8(i8::from_le_bytes(cursor.array(key)?)),
        value::U16 => Value::U16(u16::from_le_bytes(cursor.array(key)?)),
        value::I16 => Value::I16(i16::from_le_bytes(cursor.array(key)?)),
        value::U32 => Value::U32(cursor.u32(key)?),
        value::I32 => Value::I32(i32::from_le_bytes(cursor.array(key)?)),
        value::U64 => Value::U64(cursor.u64(key)?),
        value::I64 => Value::I64(i64::from_le_bytes(cursor.array(key)?)),
        value::F32 => Value::F32(f32::from_le_bytes(cursor.array(key)?)),
        value::F64 => Value::F64(f64::from_le_bytes(cursor.array(key)?)),
        value::BOOL => Value::Bool(read_bool(cursor, key)?),
        value::STRING => Value::String(cursor.string(key)?),
        value::ARRAY => Value::Array(read_array(cursor, key)?),
        other => return Err(cursor.refuse(key, format!("unknown value type {other}"))),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    Ok(match cursor.u32(key)? {
        value::U8 => Array::U8(numbers(cursor, key, u8::from_le_bytes)?),
        value::I8 => Array::I8(numbers(cursor, key, i8::from_le_bytes)?),
        value::U16 => Array::U16(numbers(cursor, key, u16::from_le_bytes)?),
        value::I16 => Array::I16(numbers(cursor, key, i16::from_le_bytes)?),
        value::U32 => Array::U32(numbers(cursor, key, u32::from_le_bytes)?),
        value::I32 => Array::I32(numbers(cursor, key, i32::from_le_bytes)?),
        value::U64 => Array::U64(numbers(cursor, key, u64::from_le_bytes)?),
        value::I64 => Array::I64(numbers(cursor, key, i64::from_le_bytes)?),
        value::F32 => Array::F32(numbers(cursor, key, f32::from_le_bytes)?),
        value::F64 => Array::F64(numbers(cursor, key, f64::from_le_bytes)?),
        value::BOOL => {
            let count = cursor.count(key, 1)?;
            Array::Bool((0..count).map(|_| read_bool(cursor, key)).collect::<Result<_, _>>()?)
        }
        value::STRING => {
            let count = cursor.count(key, 8)?;
            Array::String((0..count).map(|_| cursor.string(key)).collect::<Result<_, _>>()?)
        }
        value::ARRAY => return Err(cursor.refuse(key, "arrays of arrays are not supported".to_owned())),
        other => return Err(cursor.refuse(key, format!("unknown element type {other}"))),
    })
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, GgufError> {
    match cursor.array(key)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(cursor.refuse(key, format!("{other} is no boolean"))),
    }
}

fn numbers<T, const N: usize>(cursor: &mut Cursor<'_>, key: &str, from: fn([u8; N]) -> T) -> Result<Vec<T>, GgufError> {
    let count = cursor.count(key, N as u64)?;
    // `count` checked the product.
    Ok(cursor.take(key, count * N as u64)?.as_chunks().0.iter().map(|&bytes| from(bytes)).collect())
}

/// One entry of the tensor list, with its offset in the data.
fn read_tensor(file: &str, cursor: &mut Cursor<'_>, i: u64) -> Result<(TensorInfo, u64), GgufError> {
    let name = cursor.string(&format!("name of tensor {i}"))?;
    let field = format!("tensor {name}");
    let dims = cursor.u32(&field)?;
    if dims > MAX_DIMS {
        return Err(cursor.refuse(&field, format!("{dims} dimensions, at most {MAX_DIMS} are possible")));
    }
    let mut shape = (0..dims).map(|_| cursor.u64(&field)).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let number = cursor.u32(&field)?;
    let dtype = dtype_of(number).map_err(|type_name| GgufError::Type {
        file: file.to_owned(),
        tensor: name.clone(),
        number,
        name: type_name,
    })?;
    let offset = cursor.u64(&field)?;
    Ok((TensorInfo { name, dtype, shape }, offset))
}

/// Where each tensor begins in the file: aligned, inside the file, no two overlapping.
fn place(
    file: &str,
    tensors: &[(TensorInfo, u64)],
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<u64>, GgufError> {
    let wrong =
        |info: &TensorInfo, reason: String| GgufError::Tensor { file: file.to_owned(), tensor: info.name.clone(), reason };
    let mut spans = Vec::with_capacity(tensors.len());
    for (info, offset) in tensors {
        let bytes = info
            .bytes()
            .ok_or_else(|| wrong(info, format!("{} {:?} overflows or does not fill whole blocks", info.dtype, info.shape)))?;
        if offset % alignment != 0 {
            return Err(wrong(info, format!("its offset {offset} is no multiple of the alignment {alignment}")));
        }
        let start = data_start.checked_add(*offset);
        let end = start.and_then(|s| s.checked_add(bytes)).filter(|&e| e <= file_len || bytes == 0);
        let (Some(start), Some(end)) = (start, end) else {
            let reason = format!("{bytes} bytes at {data_start} + {offset} lie outside the file of {file_len} bytes");
            return Err(wrong(info, reason));
        };
        spans.push((start, end, info));
    }
    let starts = spans.iter().map(|s| s.0).collect();
    spans.sort_by_key(|s| (s.0, s.1));
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(wrong(pair[1].2, format!("its bytes overlap those of {}", pair[0].2.name)));
        }
    }
    Ok(starts)
}
