//! Rows of tensors as real numbers, and back.

use crate::{CompressError, encode, encode::EncodeError, method::Task};
use coffer_checkpoint::{ReadError, TensorId, TensorInfo, TensorSource, blocks};
use std::ops::Range;

/// Weights that are worth one piece of work: their `f32` values fit a second-level cache.
const UNIT_WEIGHTS: u64 = 1 << 18;

/// A task that is computed a few rows at a time; `inputs` tensors are read for it.
pub(crate) fn task_by_rows(output: TensorInfo, inputs: u64) -> Result<Task, CompressError> {
    let unit_rows = (UNIT_WEIGHTS / output.cols().max(1)).clamp(1, output.rows().max(1));
    let weights = unit_rows.checked_mul(output.cols());
    let unit_bytes = weights.and_then(|w| w.checked_mul(8)?.checked_mul(inputs + 1)).ok_or_else(|| too_large(&output))?;
    output.bytes().ok_or_else(|| too_large(&output))?;
    Ok(Task { output, unit_rows, unit_bytes })
}

/// The tensor called `name`.
pub(crate) fn find<'a>(source: &'a dyn TensorSource, name: &str) -> Result<(TensorId, &'a TensorInfo), CompressError> {
    let id = source.index().find(name).ok_or_else(|| CompressError::Missing(name.to_owned()))?;
    Ok((id, source.index().get(id)))
}

/// Raw bytes of `rows`.
pub(crate) fn read_raw(source: &dyn TensorSource, id: TensorId, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
    let info = source.index().get(id);
    let bytes = info.row_bytes().and_then(|b| b.checked_mul(rows.end - rows.start)).and_then(|b| usize::try_from(b).ok());
    let mut raw = vec![0; bytes.ok_or_else(|| too_large(info))?];
    source.read_rows(id, rows, &mut raw)?;
    Ok(raw)
}

/// Values of `rows`.
pub(crate) fn read(source: &dyn TensorSource, id: TensorId, rows: Range<u64>) -> Result<Vec<f32>, CompressError> {
    let raw = read_raw(source, id, rows)?;
    let info = source.index().get(id);
    let mut values = vec![0.0; raw.len() / info.dtype.block_bytes() * info.dtype.block_len()];
    blocks::decode(info.dtype, &raw, &mut values)
        .map_err(|source| CompressError::Decode { tensor: info.name.clone(), source })?;
    Ok(values)
}

/// `values` of the rows from `first_row` on in the type of `output`; `weights` say how much the squared error of each counts.
pub(crate) fn encode_rows(
    output: &TensorInfo,
    first_row: u64,
    values: &[f32],
    weights: Option<&[f32]>,
) -> Result<Vec<u8>, CompressError> {
    let dtype = output.dtype;
    let bytes = |values: usize| values / dtype.block_len() * dtype.block_bytes();
    let mut out = vec![0; bytes(values.len())];
    if !dtype.is_scaled_by_row() {
        encode::encode(dtype, values, weights, &mut out).map_err(|e| in_row(output, first_row, e))?;
        return Ok(out);
    }
    let cols = (output.cols() as usize).max(1);
    for ((row, values), out) in (first_row..).zip(values.chunks_exact(cols)).zip(out.chunks_exact_mut(bytes(cols))) {
        encode::encode(dtype, values, None, out).map_err(|e| in_row(output, row, e))?;
    }
    Ok(out)
}

/// Puts what was `made` of tensor `info` into the room that its reader has.
pub(crate) fn fill(info: &TensorInfo, made: Result<Vec<u8>, CompressError>, out: &mut [u8]) -> Result<(), ReadError> {
    let refused = |reason: String| ReadError::Refused { name: info.name.clone(), reason };
    let made = made.map_err(|e| refused(e.to_string()))?;
    if made.len() != out.len() {
        return Err(refused(format!("{} bytes of room for {} bytes", out.len(), made.len())));
    }
    out.copy_from_slice(&made);
    Ok(())
}

/// Turns a position among all values into a row and a position in it.
pub(crate) fn in_row(tensor: &TensorInfo, first_row: u64, source: EncodeError) -> CompressError {
    let cols = usize::try_from(tensor.cols()).unwrap_or(usize::MAX).max(1);
    let (at, source) = match source {
        EncodeError::NotFinite { index, value } => (index, EncodeError::NotFinite { index: index % cols, value }),
        EncodeError::Overflow { dtype, index, value } => (index, EncodeError::Overflow { dtype, index: index % cols, value }),
        other => (0, other),
    };
    CompressError::Values { tensor: tensor.name.clone(), row: first_row + (at / cols) as u64, source }
}

pub(crate) fn too_large(info: &TensorInfo) -> CompressError {
    CompressError::Size { tensor: info.name.clone(), dtype: info.dtype, shape: info.shape.clone() }
}
