//! Tensors in memory, for tests.

use coffer_checkpoint::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource};
use std::ops::Range;

/// Tensors as bytes.
pub(crate) struct MemorySource {
    index: TensorIndex,
    bytes: Vec<Vec<u8>>,
}

impl MemorySource {
    pub(crate) fn new(tensors: Vec<(TensorInfo, Vec<u8>)>) -> Self {
        let (infos, bytes) = tensors.into_iter().unzip();
        Self { index: TensorIndex::new(infos).unwrap(), bytes }
    }
}

impl TensorSource for MemorySource {
    fn index(&self) -> &TensorIndex {
        &self.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let row = self.index.get(t).row_bytes().unwrap() as usize;
        out.copy_from_slice(&self.bytes[t.0][rows.start as usize * row..rows.end as usize * row]);
        Ok(())
    }
}

/// A tensor of `F32` values.
pub(crate) fn f32_tensor(name: &str, shape: &[u64], values: &[f32]) -> (TensorInfo, Vec<u8>) {
    let info = TensorInfo { name: name.into(), dtype: DType::F32, shape: shape.to_vec() };
    assert_eq!(info.elements(), Some(values.len() as u64));
    (info, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Values that look random, −1 to 1.
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mix = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    (1..=n as u32).map(|i| (mix(i) as i32) as f32 / 2_147_483_648.0).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
