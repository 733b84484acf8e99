//! The tensors of any container under canonical names, rows in canonical order.

use coffer_checkpoint::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, blocks};
use coffer_model::names::gguf_row;
use std::{ops::Range, sync::Arc};

/// Selected tensors of a file, renamed and put into canonical order.
pub(crate) struct Canonical {
    source: Arc<dyn TensorSource>,
    index: TensorIndex,
    views: Vec<View>,
}

/// How a canonical tensor comes out of the file.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Tensor in the file.
    pub(crate) id: TensorId,
    /// Its first row that belongs to the canonical tensor.
    pub(crate) first: u64,
    /// Shape of the canonical tensor.
    pub(crate) shape: Vec<u64>,
    /// Heads over which the file permutes its rows.
    pub(crate) heads: Option<usize>,
    /// Whether the file holds it less 1; then it is F32 here.
    pub(crate) less_one: bool,
    /// Narrower float that the file's F32 was made from, without loss.
    pub(crate) narrowed: Option<DType>,
}

impl Canonical {
    /// `tensors` are canonical name, and view. Returns the name that occurs twice, if one does.
    pub(crate) fn new(source: Arc<dyn TensorSource>, tensors: Vec<(String, View)>) -> Result<Self, String> {
        let info = |(name, view): &(String, View)| {
            let stored = source.index().get(view.id).dtype;
            let dtype = if view.less_one { DType::F32 } else { view.narrowed.unwrap_or(stored) };
            TensorInfo { name: name.clone(), dtype, shape: view.shape.clone() }
        };
        let index = TensorIndex::new(tensors.iter().map(info).collect())?;
        Ok(Self { source, index, views: tensors.into_iter().map(|(_, view)| view).collect() })
    }

    /// Reads rows of a permuted tensor, one head at a time: its rows stay within it.
    fn read_permuted(&self, id: TensorId, heads: usize, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.source.index().get(id);
        let refused = |reason: &str| ReadError::Refused { name: info.name.clone(), reason: reason.to_owned() };
        let row_bytes = info.row_bytes().ok_or_else(|| refused("rows do not fill whole blocks"))? as usize;
        let (total, heads_u64) = (info.rows(), heads as u64);
        if heads == 0
            || !total.is_multiple_of(heads_u64 * 2)
            || rows.end > total
            || out.len() != (rows.end - rows.start) as usize * row_bytes
        {
            return Err(refused("rows asked for do not fit the heads of this tensor"));
        }
        let width = total / heads_u64;
        let mut head = vec![0; width as usize * row_bytes];
        let mut out = out.chunks_exact_mut(row_bytes);
        for h in rows.start / width..rows.end.div_ceil(width) {
            let first = h * width;
            self.source.read_rows(id, first..first + width, &mut head)?;
            for row in rows.start.max(first)..rows.end.min(first + width) {
                let at = (gguf_row(row, total, heads) - first) as usize * row_bytes;
                if let Some(out) = out.next() {
                    out.copy_from_slice(&head[at..at + row_bytes]);
                }
            }
        }
        Ok(())
    }

    fn read_less_one(&self, view: &View, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.source.index().get(view.id);
        let refused = |reason: String| ReadError::Refused { name: info.name.clone(), reason };
        let mut stored = vec![0; out.len() / size_of::<f32>() * info.dtype.block_bytes() / info.dtype.block_len()];
        self.source.read_rows(view.id, rows, &mut stored)?;
        let mut values = vec![0.0; out.len() / size_of::<f32>()];
        blocks::decode(info.dtype, &stored, &mut values).map_err(|e| refused(e.to_string()))?;
        for (four, value) in out.chunks_exact_mut(size_of::<f32>()).zip(values) {
            four.copy_from_slice(&(value + 1.0).to_le_bytes());
        }
        Ok(())
    }

    fn read_narrowed(&self, view: &View, dtype: DType, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let mut wide = vec![0; out.len() * 2];
        self.source.read_rows(view.id, rows, &mut wide)?;
        let name = || self.source.index().get(view.id).name.clone();
        let narrow = narrow(dtype, &wide);
        let narrow = narrow.ok_or_else(|| ReadError::Refused { name: name(), reason: format!("changed: no longer {dtype}") })?;
        out.copy_from_slice(&narrow);
        Ok(())
    }
}

impl TensorSource for Canonical {
    fn index(&self) -> &TensorIndex {
        &self.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let Some(view) = self.views.get(t.0) else {
            return Err(ReadError::Refused { name: "model".into(), reason: format!("there is no tensor {}", t.0) });
        };
        let info = self.index.get(t);
        if rows.end > info.rows() {
            let reason = format!("rows to {} are asked for; it has {}", rows.end, info.rows());
            return Err(ReadError::Refused { name: info.name.clone(), reason });
        }
        let rows = rows.start + view.first..rows.end + view.first;
        match (view.heads, view.narrowed) {
            (Some(heads), _) if !rows.is_empty() => self.read_permuted(view.id, heads, rows, out),
            _ if view.less_one => self.read_less_one(view, rows, out),
            (_, Some(dtype)) => self.read_narrowed(view, dtype, rows, out),
            _ => self.source.read_rows(view.id, rows, out),
        }
    }
}

/// The same numbers in two bytes each; `None` if that would lose anything.
pub(crate) fn narrow(dtype: DType, wide: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(wide.len() / 2);
    for four in wide.chunks_exact(4) {
        let bits = u32::from_le_bytes(four.try_into().ok()?);
        let half = match dtype {
            DType::BF16 => (bits & 0xffff == 0).then_some((bits >> 16) as u16)?,
            DType::F16 => {
                let half = half::f16::from_f32(f32::from_bits(bits));
                (half.to_f32().to_bits() == bits).then_some(half.to_bits())?
            }
            _ => return None,
        };
        out.extend(half.to_le_bytes());
    }
    Some(out)
}

/// The same numbers in four bytes each; `None` for other types.
pub(crate) fn widen(dtype: DType, narrow: &[u8]) -> Option<Vec<u8>> {
    let word = |two: &[u8]| u16::from_le_bytes([two[0], two[1]]);
    let single: fn(u16) -> u32 = match dtype {
        DType::BF16 => |bits| u32::from(bits) << 16,
        DType::F16 => |bits| half::f16::from_bits(bits).to_f32().to_bits(),
        _ => return None,
    };
    Some(narrow.chunks_exact(2).flat_map(|two| single(word(two)).to_le_bytes()).collect())
}
