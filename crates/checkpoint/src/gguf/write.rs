//! Writing as a stream.

use super::{
    Array, GgufError, Metadata, Value,
    read::alignment,
    types::{number_of, value},
};
use crate::TensorInfo;
use std::{
    collections::{HashSet, VecDeque},
    io::{self, Write},
};

/// ggml keeps names in 64 bytes with a final zero.
const MAX_NAME: usize = 63;

/// Writes a GGUF file as a stream: the header, then each tensor's bytes in the declared order.
pub struct GgufWriter<W: Write> {
    out: W,
    alignment: u64,
    /// Tensors still to be written, with the bytes that each still lacks.
    pending: VecDeque<(String, u64)>,
    /// Padding behind the current tensor.
    paddings: VecDeque<u64>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. The alignment is that of `general.alignment`, or 32.
    ///
    /// # Errors
    /// Returns [`GgufError::Unwritable`] if llama.cpp could not load the result: names that are empty, repeated or longer
    /// than 63 bytes, more than four dimensions, types that ggml lacks, rows that do not fill whole blocks.
    pub fn new(mut out: W, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Self, GgufError> {
        let alignment = alignment(metadata).map_err(GgufError::Unwritable)?;
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            push_string(&mut header, key);
            push_value(&mut header, value);
        }
        let (mut offset, mut names) = (0u64, HashSet::new());
        let (mut pending, mut paddings) = (VecDeque::new(), VecDeque::new());
        for tensor in tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(GgufError::Unwritable(format!("tensor {} is declared twice", tensor.name)));
            }
            let bytes = push_tensor(&mut header, tensor, offset)?;
            let padded = bytes.checked_next_multiple_of(alignment);
            offset = padded
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| GgufError::Unwritable(format!("tensor {}: sizes overflow", tensor.name)))?;
            pending.push_back((tensor.name.clone(), bytes));
            paddings.push_back(padded.unwrap_or(bytes) - bytes);
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&header)?;
        let mut writer = Self { out, alignment, pending, paddings };
        writer.close_complete()?;
        Ok(writer)
    }

    /// Appends bytes of the current tensor; padding between tensors is written as each one is complete.
    ///
    /// # Errors
    /// Returns [`GgufError::Unwritable`] if there are more bytes than the current tensor lacks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len() as u64;
        match self.pending.front_mut() {
            Some((_, missing)) if *missing >= len => *missing -= len,
            Some((name, missing)) => {
                return Err(GgufError::Unwritable(format!("tensor {name}: {len} bytes given where {missing} are missing")));
            }
            None => return Err(GgufError::Unwritable(format!("{len} bytes given after the last tensor"))),
        }
        self.out.write_all(bytes)?;
        Ok(self.close_complete()?)
    }

    /// The stream. Whoever writes to it destroys the file.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Checks that every declared byte was written and returns the stream.
    ///
    /// # Errors
    /// Returns [`GgufError::Unwritable`] if bytes are missing.
    pub fn finish(mut self) -> Result<W, GgufError> {
        if let Some((name, missing)) = self.pending.front() {
            return Err(GgufError::Unwritable(format!("tensor {name}: {missing} bytes are missing")));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn close_complete(&mut self) -> io::Result<()> {
        while self.pending.front().is_some_and(|(_, missing)| *missing == 0) {
            self.pending.pop_front();
            if let Some(padding) = self.paddings.pop_front() {
                self.out.write_all(&vec![0; padding.min(self.alignment) as usize])?;
            }
        }
        Ok(())
    }
}

/// Appends the entry of `tensor` and returns its bytes.
fn push_tensor(header: &mut Vec<u8>, tensor: &TensorInfo, offset: u64) -> Result<u64, GgufError> {
    let TensorInfo { name, dtype, shape } = tensor;
    let refuse = |reason: String| Err(GgufError::Unwritable(format!("tensor {name}: {reason}")));
    if name.is_empty() || name.len() > MAX_NAME {
        return refuse(format!("its name has {} bytes, 1 to {MAX_NAME} are possible", name.len()));
    }
    if shape.is_empty() || shape.len() > 4 {
        return refuse(format!("{} dimensions, 1 to 4 are possible", shape.len()));
    }
    let Some(number) = number_of(*dtype) else {
        return refuse(format!("GGUF has no type {dtype}"));
    };
    let Some(bytes) = tensor.bytes() else {
        return refuse(format!("{dtype} {shape:?} overflows or does not fill whole blocks"));
    };
    push_string(header, name);
    header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
    for extent in shape.iter().rev() {
        header.extend_from_slice(&extent.to_le_bytes());
    }
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&offset.to_le_bytes());
    Ok(bytes)
}

fn push_string(header: &mut Vec<u8>, s: &str) {
    header.extend_from_slice(&(s.len() as u64).to_le_bytes());
    header.extend_from_slice(s.as_bytes());
}

fn push_value(header: &mut Vec<u8>, entry: &Value) {
    let number: (u32, &[u8]) = match entry {
        Value::U8(n) => (value::U8, &n.to_le_bytes()),
        Value::I8(n) => (value::I8, &n.to_le_bytes()),
        Value::U16(n) => (value::U16, &n.to_le_bytes()),
        Value::I16(n) => (value::I16, &n.to_le_bytes()),
        Value::U32(n) => (value::U32, &n.to_le_bytes()),
        Value::I32(n) => (value::I32, &n.to_le_bytes()),
        Value::U64(n) => (value::U64, &n.to_le_bytes()),
        Value::I64(n) => (value::I64, &n.to_le_bytes()),
        Value::F32(n) => (value::F32, &n.to_le_bytes()),
        Value::F64(n) => (value::F64, &n.to_le_bytes()),
        Value::Bool(b) => (value::BOOL, &[u8::from(*b)]),
        Value::String(s) => {
            header.extend_from_slice(&value::STRING.to_le_bytes());
            return push_string(header, s);
        }
        Value::Array(array) => {
            header.extend_from_slice(&value::ARRAY.to_le_bytes());
            return push_array(header, array);
        }
    };
    header.extend_from_slice(&number.0.to_le_bytes());
    header.extend_from_slice(number.1);
}

fn push_array(header: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(v) => push_items(header, value::U8, v, |h, n| h.push(*n)),
        Array::I8(v) => push_items(header, value::I8, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::U16(v) => push_items(header, value::U16, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::I16(v) => push_items(header, value::I16, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::U32(v) => push_items(header, value::U32, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::I32(v) => push_items(header, value::I32, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::U64(v) => push_items(header, value::U64, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::I64(v) => push_items(header, value::I64, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::F32(v) => push_items(header, value::F32, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::F64(v) => push_items(header, value::F64, v, |h, n| h.extend_from_slice(&n.to_le_bytes())),
        Array::Bool(v) => push_items(header, value::BOOL, v, |h, b| h.push(u8::from(*b))),
        Array::String(v) => push_items(header, value::STRING, v, |h, s| push_string(h, s)),
    }
}

fn push_items<T>(header: &mut Vec<u8>, number: u32, items: &[T], push: fn(&mut Vec<u8>, &T)) {
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&(items.len() as u64).to_le_bytes());
    for item in items {
        push(header, item);
    }
}
