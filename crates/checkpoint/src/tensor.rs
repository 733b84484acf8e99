//! Named tensors and where their rows come from.

use crate::{DType, ReadError};
use std::{collections::HashMap, ops::Range};

/// Position of a tensor in its [`TensorIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Name, type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in its index.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first (`[out, in]` for a linear layer), as safetensors writes them.
    pub shape: Vec<u64>,
}

impl TensorInfo {
    /// Product of the extents; `None` if the product of those above zero overflows, so that no part of it can.
    pub fn elements(&self) -> Option<u64> {
        let product = self.shape.iter().filter(|&&d| d > 0).try_fold(1u64, |n, &d| n.checked_mul(d))?;
        Some(if self.shape.contains(&0) { 0 } else { product })
    }
    /// Innermost extent; 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
    /// Product of all extents but the innermost, at most `u64::MAX`; a vector is one row.
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).fold(1, |n, &d| n.saturating_mul(d))
    }
    /// Bytes of one row; `None` if the columns do not fill whole blocks.
    pub fn row_bytes(&self) -> Option<u64> {
        self.dtype.row_bytes(self.cols())
    }
    /// Bytes of the whole tensor; `None` on overflow or partial blocks.
    pub fn bytes(&self) -> Option<u64> {
        self.elements().and(self.row_bytes())?.checked_mul(self.rows())
    }
    /// Bytes that it takes in a file; `None` as for [`Self::bytes`]. They differ for types of compressed-tensors, whose files have
    /// scales of two bytes, one for all blocks of a row where they are the same, and zero points of four bits.
    pub fn stored_bytes(&self) -> Option<u64> {
        let (bytes, rows) = (self.bytes()?, self.rows());
        let blocks = bytes / self.dtype.block_bytes() as u64;
        let codes = |each: u64| blocks.checked_mul(each);
        match self.dtype {
            DType::W8_ROW | DType::F8_ROW => codes(32)?.checked_add(rows.checked_mul(2)?),
            DType::W4_G32 => codes(18),
            DType::W4_G128 => codes(66),
            DType::W4Z_G32 => codes(18)?.checked_add(blocks / rows.max(1) * rows.div_ceil(8) * 4),
            DType::W4Z_G128 => codes(66)?.checked_add(blocks / rows.max(1) * rows.div_ceil(8) * 4),
            _ => Some(bytes),
        }
    }
}

/// The tensors of a model, in file order.
#[derive(Clone, Debug, Default)]
pub struct TensorIndex {
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, TensorId>,
}

impl TensorIndex {
    /// Builds an index; returns the name that occurs twice, if one does.
    pub fn new(tensors: Vec<TensorInfo>) -> Result<Self, String> {
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (i, t) in tensors.iter().enumerate() {
            if by_name.insert(t.name.clone(), TensorId(i)).is_some() {
                return Err(t.name.clone());
            }
        }
        Ok(Self { tensors, by_name })
    }
    /// The same tensors in other types.
    pub fn with_types(&self, dtype: impl Fn(&TensorInfo) -> DType) -> Self {
        let retyped = |t: &TensorInfo| TensorInfo { dtype: dtype(t), ..t.clone() };
        Self { tensors: self.tensors.iter().map(retyped).collect(), by_name: self.by_name.clone() }
    }
    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.by_name.get(name).copied()
    }
    /// Name, type and shape of `id`.
    pub fn get(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0]
    }
    /// All tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TensorId, &TensorInfo)> {
        self.tensors.iter().enumerate().map(|(i, t)| (TensorId(i), t))
    }
    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

/// Reads rows of tensors, wherever they are stored.
pub trait TensorSource: Send + Sync {
    /// What can be read.
    fn index(&self) -> &TensorIndex;
    /// Fills `out` with the raw bytes of `rows` of tensor `t`: exactly `rows.len() * row_bytes` bytes.
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError>;
}
