//! The smallest weights of each layer become zero (Han et al., arXiv:1506.02626), each tensor on its own: the common
//! layer-wise baseline.

use crate::{
    CompressError, Method, Task,
    encode::EncodeError,
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::{DType, TensorInfo, TensorSource, blocks};
use coffer_model::LayerGraph;
use std::{collections::HashSet, ops::Range, sync::Arc};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    kind: Kind::Prune,
    name: "magnitude",
    id: "magnitude@1",
    needs: Needs::Nothing,
    about: "the smallest weights of each layer become zero",
};

/// Prunes every prunable tensor of a layer graph to one sparsity.
pub struct Magnitude {
    source: Arc<dyn TensorSource>,
    prunable: HashSet<String>,
    sparsity: f64,
}

impl Magnitude {
    /// Exactly ⌊`sparsity` · n⌋ of the n weights of every prunable tensor will be zero or have been; of equal
    /// magnitudes the first go first.
    ///
    /// # Errors
    /// Returns [`CompressError::Parameter`] unless `sparsity` lies between 0 and 1.
    pub fn new(source: Arc<dyn TensorSource>, graph: &LayerGraph, sparsity: f64) -> Result<Self, CompressError> {
        Self::of(source, graph.prunable().map(|n| n.weight.clone()).collect(), sparsity)
    }

    fn of(source: Arc<dyn TensorSource>, prunable: HashSet<String>, sparsity: f64) -> Result<Self, CompressError> {
        if !(0.0..=1.0).contains(&sparsity) {
            let expected = "between 0 and 1".to_owned();
            return Err(CompressError::Parameter { name: "sparsity", value: sparsity.to_string(), expected });
        }
        Ok(Self { source, prunable, sparsity })
    }
}

impl Method for Magnitude {
    fn entry(&self) -> &'static Entry {
        &ENTRY
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        self.source.index().iter().map(|(_, t)| self.task(t)).collect()
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let (id, info) = rows::find(&*self.source, &task.output.name)?;
        let mut raw = rows::read_raw(&*self.source, id, rows)?;
        if self.prunable.contains(&info.name) {
            let weights = raw.len() / info.dtype.block_bytes();
            zero_smallest(info, &mut raw, (self.sparsity * weights as f64) as u64)?;
        }
        Ok(raw)
    }
}

impl Magnitude {
    /// A pruned tensor is one piece: its threshold depends on all of it.
    fn task(&self, tensor: &TensorInfo) -> Result<Task, CompressError> {
        if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
            let (tensor, dtype) = (tensor.name.clone(), tensor.dtype);
            return Err(CompressError::Quantized { method: ENTRY.name, tensor, dtype });
        }
        if !self.prunable.contains(&tensor.name) {
            return rows::task_by_rows(tensor.clone(), 1);
        }
        let unit_bytes = tensor.bytes().and_then(|b| b.checked_mul(2)).ok_or_else(|| rows::too_large(tensor))?;
        Ok(Task { output: tensor.clone(), unit_rows: tensor.rows(), unit_bytes })
    }
}

/// Zeroes the `count` weights of least magnitude in `raw`, a whole tensor.
fn zero_smallest(info: &TensorInfo, raw: &mut [u8], count: u64) -> Result<(), CompressError> {
    let threshold = Threshold::find(info, raw, count)?;
    let size = info.dtype.block_bytes();
    let mut ties = threshold.ties;
    for_each_magnitude(info, &mut *raw, |bytes, at, magnitude| {
        let tie = magnitude == threshold.magnitude && ties > 0;
        if magnitude < threshold.magnitude || tie {
            bytes[at * size..(at + 1) * size].fill(0);
            ties -= u64::from(tie);
        }
    })
}

/// All weights below `magnitude` go, and the first `ties` of those equal to it.
struct Threshold {
    magnitude: u32,
    ties: u64,
}

impl Threshold {
    /// Counts the upper halves of all magnitudes, finds the half in which the limit lies, then counts its lower halves.
    fn find(info: &TensorInfo, raw: &mut [u8], count: u64) -> Result<Self, CompressError> {
        let mut counts = vec![0u64; 1 << 16];
        for_each_magnitude(info, raw, |_, _, m| counts[(m >> 16) as usize] += 1)?;
        let (high, left) = bucket(&counts, count);
        counts.fill(0);
        for_each_magnitude(info, raw, |_, _, m| counts[(m & 0xffff) as usize] += u64::from(m >> 16 == high))?;
        let (low, ties) = bucket(&counts, left);
        Ok(Self { magnitude: high << 16 | low, ties })
    }
}

/// The bucket in which the `count`-th item lies, and how many of its items are among the first `count`.
fn bucket(counts: &[u64], count: u64) -> (u32, u64) {
    let mut left = count;
    for (i, &n) in counts.iter().enumerate() {
        if left <= n {
            return (i as u32, left);
        }
        left -= n;
    }
    (u32::from(u16::MAX), left)
}

/// Calls `visit(bytes of a stretch, position in it, magnitude)` for every weight. Magnitudes are the bits of `|x|` as
/// `f32`: they order as the numbers do.
fn for_each_magnitude(
    info: &TensorInfo,
    raw: &mut [u8],
    mut visit: impl FnMut(&mut [u8], usize, u32),
) -> Result<(), CompressError> {
    const STRETCH: usize = 4096;
    let size = info.dtype.block_bytes();
    let mut values = [0.0f32; STRETCH];
    for (i, bytes) in raw.chunks_mut(STRETCH * size).enumerate() {
        let values = &mut values[..bytes.len() / size];
        blocks::decode(info.dtype, bytes, values)
            .map_err(|source| CompressError::Decode { tensor: info.name.clone(), source })?;
        for (at, &value) in values.iter().enumerate() {
            if !value.is_finite() {
                return Err(rows::in_row(info, 0, EncodeError::NotFinite { index: i * STRETCH + at, value }));
            }
            visit(bytes, at, value.abs().to_bits());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor, floats, noise};
    use proptest::prelude::*;

    fn info(dtype: DType, n: u64) -> TensorInfo {
        TensorInfo { name: "w".into(), dtype, shape: vec![1, n] }
    }

    fn pruned(values: &[f32], count: u64) -> Vec<f32> {
        let (_, mut raw) = f32_tensor("w", &[1, values.len() as u64], values);
        zero_smallest(&info(DType::F32, values.len() as u64), &mut raw, count).unwrap();
        floats(&raw)
    }

    /// Sorts positions by magnitude, then by position.
    fn slow(values: &[f32], count: usize) -> Vec<f32> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()).then(a.cmp(&b)));
        let mut out = values.to_vec();
        order[..count].iter().for_each(|&i| out[i] = 0.0);
        out
    }

    proptest! {
        #[test]
        fn equals_a_sort(values in prop::collection::vec(prop_oneof![-1.0f32..1.0, Just(0.5), Just(-0.5), Just(0.0), Just(1e-40)], 0..300), share in 0.0f64..=1.0) {
            let count = (share * values.len() as f64) as usize;
            prop_assert_eq!(pruned(&values, count as u64), slow(&values, count));
        }
    }

    #[test]
    fn ties_go_in_order_of_position() {
        assert_eq!(pruned(&[1.0, -1.0, 1.0, 2.0], 2), [0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn long_tensors_and_16_bit_types_are_counted_exactly() {
        let values = noise(10_000, 7);
        assert_eq!(pruned(&values, 5000).iter().filter(|v| **v == 0.0).count(), 5000);
        for dtype in [DType::BF16, DType::F16] {
            let mut raw = vec![0; 20_000];
            crate::encode::encode(dtype, &values, None, &mut raw).unwrap();
            zero_smallest(&info(dtype, 10_000), &mut raw, 5000).unwrap();
            assert_eq!(raw.as_chunks::<2>().0.iter().filter(|b| **b == [0, 0]).count(), 5000);
        }
    }

    fn method(tensors: Vec<(TensorInfo, Vec<u8>)>, sparsity: f64) -> Result<Magnitude, CompressError> {
        let prunable = HashSet::from(["w".to_owned()]);
        Magnitude::of(Arc::new(MemorySource::new(tensors)), prunable, sparsity)
    }

    #[test]
    fn only_prunable_tensors_change() {
        let tensors = || vec![f32_tensor("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), f32_tensor("norm", &[2], &[1.0, 2.0])];
        let method = method(tensors(), 0.5).unwrap();
        let run = |t: &Task| floats(&method.run(t, 0..t.output.rows()).unwrap());
        let tasks = method.plan().unwrap();
        assert_eq!(run(&tasks[0]), [0.0, 0.0, 3.0, 4.0]);
        assert_eq!(run(&tasks[1]), [1.0, 2.0]);
    }

    #[test]
    fn a_sparsity_outside_0_to_1_is_refused() {
        for sparsity in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(method(vec![], sparsity), Err(CompressError::Parameter { name: "sparsity", .. })));
        }
    }

    #[test]
    fn a_quantized_source_is_refused() {
        let method = method(vec![(info(DType::Q8_0, 32), vec![0; 34])], 0.5).unwrap();
        let error = method.plan().unwrap_err().to_string();
        assert!(error.contains("tensor w is Q8_0"), "{error}");
    }

    #[test]
    fn nan_is_refused_with_tensor_and_row() {
        let method = method(vec![f32_tensor("w", &[2, 2], &[1.0, 2.0, 3.0, f32::NAN])], 0.5).unwrap();
        let tasks = method.plan().unwrap();
        let error = method.run(&tasks[0], 0..2).unwrap_err().to_string();
        assert!(error.contains("tensor w, row 1: value 1 is NaN"), "{error}");
    }
}
