//! Rounding with feedback: each column makes up for the errors of those before it.

use super::weigh;
use crate::{
    CompressError, encode,
    factor::Factor,
    layer_inputs::Curvature,
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::TensorInfo;
use coffer_kernels::Wide;
use std::{ops::Range, sync::Arc};

/// Scales by importance, then codes with feedback.
pub(crate) static ENTRY: Entry = Entry {
    kind: Kind::Quantize,
    name: "gptq",
    id: "gptq@1",
    needs: Needs::Curvature,
    about: "scales as weighted; then codes one column after the other, each making up for the errors of those before it",
};

/// Rounds by second moments.
pub(super) struct Feedback(pub(super) Arc<Curvature>);

impl Feedback {
    /// The bytes of `values`, some rows from `first_row` on, of tensor `output`, whose type is searched; `None` if its input was not seen.
    pub(super) fn encode(&self, output: &TensorInfo, first_row: u64, values: &[f32]) -> Result<Option<Vec<u8>>, CompressError> {
        let Some(factor) = self.0.input(&output.name)? else { return Ok(None) };
        let cols = factor.cols();
        if cols as u64 != output.cols() {
            let reason = format!("{} has {} columns and its input {cols}", output.name, output.cols());
            return Err(CompressError::ForeignImportance { reason });
        }
        let weights = weigh(values, factor.importance());
        let in_row = |at: usize, e| rows::in_row(output, first_row + at as u64, e);
        let mut coded = Vec::with_capacity(values.len() / cols);
        for (i, (values, weights)) in values.chunks_exact(cols).zip(weights.chunks_exact(cols)).enumerate() {
            coded.push(encode::row(output.dtype, values, weights).map_err(|e| in_row(i, e))?);
        }
        round(&factor, values, &mut coded);
        let row_bytes = cols / output.dtype.block_len() * output.dtype.block_bytes();
        let mut out = vec![0; row_bytes * coded.len()];
        coded.iter().zip(out.chunks_exact_mut(row_bytes)).for_each(|(row, out)| row.store(out));
        Ok(Some(out))
    }
}

/// Columns whose errors reach those behind them together.
const PANEL: usize = 64;
/// Columns that they reach while these stay in the nearest cache.
const TILE: usize = 1024;

/// Rounds all rows, column after column. Each sum of errors runs over the columns in their order.
fn round(factor: &Factor, values: &[f32], rows: &mut [Box<dyn encode::Row>]) {
    let n = factor.cols();
    let mut wanted: Vec<f32> = values.chunks_exact(n).flat_map(|row| factor.order().iter().map(|&c| row[c])).collect();
    let mut errors = vec![0.0; rows.len() * PANEL];
    for first in (0..n).step_by(PANEL) {
        let end = (first + PANEL).min(n);
        for (((row, wanted), values), errors) in
            rows.iter_mut().zip(wanted.chunks_exact_mut(n)).zip(values.chunks_exact(n)).zip(errors.chunks_exact_mut(PANEL))
        {
            for k in first..end {
                let column = factor.order()[k];
                let error = values[column] - row.round(column, wanted[k]);
                let feedback = factor.feedback(k, k + 1..end);
                wanted[k + 1..end].iter_mut().zip(feedback).for_each(|(w, u)| *w += error * u);
                errors[k - first] = error;
            }
        }
        encode::isa().run(Reach { factor, panel: first..end, errors: &errors, wanted: &mut wanted });
    }
}

/// What the errors of a panel add to the columns behind it.
struct Reach<'a> {
    factor: &'a Factor,
    panel: Range<usize>,
    /// `[rows, PANEL]`
    errors: &'a [f32],
    /// `[rows, cols]`
    wanted: &'a mut [f32],
}

impl Wide for Reach<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let n = self.factor.cols();
        for start in (self.panel.end..n).step_by(TILE) {
            let tile = start..(start + TILE).min(n);
            for (row, errors) in self.wanted.chunks_exact_mut(n).zip(self.errors.chunks_exact(PANEL)) {
                let wanted = &mut row[tile.clone()];
                for (k, &error) in self.panel.clone().zip(errors) {
                    let feedback = self.factor.feedback(k, tile.clone());
                    for (w, &u) in wanted.iter_mut().zip(feedback) {
                        *w += error * u;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{moments::tests::moments, testing::noise};
    use coffer_checkpoint::{DType, blocks};

    const COLS: usize = 256;

    fn coded(dtype: DType, factor: &Factor, values: &[f32]) -> (Vec<f32>, Box<dyn encode::Row>) {
        let mut rows = [encode::row(dtype, values, factor.importance()).unwrap()];
        round(factor, values, &mut rows);
        let [row] = rows;
        let mut raw = vec![0; COLS / dtype.block_len() * dtype.block_bytes()];
        row.store(&mut raw);
        let mut out = vec![0.0; COLS];
        blocks::decode(dtype, &raw, &mut out).unwrap();
        (out, row)
    }

    fn output_error(factor: &Factor, values: &[f32], rounded: &[f32]) -> f64 {
        factor.cost(&values.iter().zip(rounded).map(|(v, r)| v - r).collect::<Vec<_>>())
    }

    /// Optimal brain surgery with an explicit inverse, in `f64`: Frantar et al., "GPTQ", 2022, equations 2 and 3.
    fn surgery(factor: &Factor, values: &[f32], row: &mut dyn encode::Row) -> Vec<f32> {
        let (order, u) = (factor.order(), |i: usize, k: usize| factor.unit_upper(i, k));
        let h: Vec<Vec<f64>> = (0..COLS)
            .map(|i| (0..COLS).map(|k| (i.max(k)..COLS).map(|d| u(i, d) * factor.weight(d) * u(k, d)).sum()).collect())
            .collect();
        let mut inverse = inverted(h);
        let mut left: Vec<f64> = order.iter().map(|&c| f64::from(values[c])).collect();
        let mut rounded = vec![0.0; COLS];
        for k in 0..COLS {
            let q = row.round(order[k], left[k] as f32);
            rounded[order[k]] = q;
            let (error, pivot) = ((left[k] - f64::from(q)) / inverse[k][k], inverse[k].clone());
            (k..COLS).for_each(|i| left[i] -= error * pivot[i]);
            for i in k + 1..COLS {
                let share = pivot[i] / pivot[k];
                (k..COLS).for_each(|j| inverse[i][j] -= share * pivot[j]);
            }
        }
        rounded
    }

    fn inverted(mut h: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let n = h.len();
        let mut inverse: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|k| f64::from(u8::from(i == k))).collect()).collect();
        for k in 0..n {
            let pivot = h[k][k];
            h[k].iter_mut().chain(&mut inverse[k]).for_each(|v| *v /= pivot);
            let (row, inverse_row) = (h[k].clone(), inverse[k].clone());
            for i in (0..n).filter(|&i| i != k) {
                let factor = h[i][k];
                h[i].iter_mut().zip(&row).for_each(|(a, b)| *a -= factor * b);
                inverse[i].iter_mut().zip(&inverse_row).for_each(|(a, b)| *a -= factor * b);
            }
        }
        inverse
    }

    #[test]
    fn feedback_is_optimal_brain_surgery() {
        let (factor, values) = (Factor::of(moments(COLS, 600), 1), noise(COLS, 3));
        for dtype in [DType::Q4_K, DType::Q3_K, DType::IQ4_XS, DType::Q4_0, DType::Q4_1] {
            let (ours, _) = coded(dtype, &factor, &values);
            let mut row = encode::row(dtype, &values, factor.importance()).unwrap();
            let plain = surgery(&factor, &values, &mut *row);
            let same = ours.iter().zip(&plain).filter(|(a, b)| (*a - *b).abs() < 1e-5).count();
            assert!(same >= COLS - 2, "{dtype}: {same} of {COLS} values are the same");
        }
    }

    #[test]
    fn the_output_is_closer_than_with_each_value_on_its_own() {
        let (factor, values) = (Factor::of(moments(COLS, 600), 1), noise(COLS, 4));
        for dtype in DType::QUANTIZED.into_iter().filter(|&d| d != DType::Q8_0) {
            let (with, _) = coded(dtype, &factor, &values);
            let (mut raw, mut alone) = (vec![0; COLS / dtype.block_len() * dtype.block_bytes()], vec![0.0; COLS]);
            encode::encode(dtype, &values, Some(factor.importance()), &mut raw).unwrap();
            blocks::decode(dtype, &raw, &mut alone).unwrap();
            let (with, alone) = (output_error(&factor, &values, &with), output_error(&factor, &values, &alone));
            assert!(with < 0.9 * alone, "{dtype}: {with:e} with feedback, {alone:e} without");
        }
    }
}
