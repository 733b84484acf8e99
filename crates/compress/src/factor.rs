//! How the inputs of a product vary together: what an error in one weight costs, and which other weights can make up for it.
//!
//! For `y = W x` over a calibration text, the squared error of the output is `Σ e H eᵀ` over the rows `e` of the error of `W`,
//! where `H = Σ x xᵀ`. With `H = (U + I) D (U + I)ᵀ`, `U` strictly upper triangular, that is `Σ D_k (e_k + Σ_{j<k} e_j U_jk)²`:
//! errors in earlier columns are made up for in later ones (Chee et al., "QuIP", 2023, section 3.1, where this is shown to be
//! what GPTQ does; Frantar et al., 2022).

use crate::{encode::isa, moments::Moments};
use coffer_kernels::Wide;
use std::{ops::Range, thread};

/// `H = (U + I) D (U + I)ᵀ` for the columns of a weight in some order.
pub struct Factor {
    /// Which column comes when.
    order: Vec<usize>,
    /// Mean square of each column.
    importance: Vec<f32>,
    /// `D`, in that order.
    weights: Vec<f32>,
    /// What of `U` is above the diagonal, row after row, in that order.
    feedback: Vec<f32>,
}

/// What is added to the diagonal, as a share of its mean: text that is too short must not look like certainty.
const DAMPING: f64 = 0.01;

impl Factor {
    /// Factors `moments`, columns of the largest mean square first: their errors are made up for by all that follow. The number of `threads`
    /// does not show.
    pub(crate) fn of(moments: Moments, threads: usize) -> Self {
        let (n, importance) = (moments.cols(), moments.importance());
        let mut order: Vec<usize> = (0..n).collect();
        let diagonal = |i: usize| moments.sum(i, i);
        order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
        let mean = (0..n).map(|i| f64::from(diagonal(i))).sum::<f64>() / n.max(1) as f64;
        let damping = if mean > 0.0 { mean * DAMPING } else { 1.0 };
        // The lower triangle, by rows.
        let mut a: Vec<Vec<f64>> =
            (0..n).map(|i| (0..=i).map(|k| f64::from(moments.sum(order[i], order[k]))).collect()).collect();
        drop(moments);
        (0..n).for_each(|i| a[i][i] += damping);
        let mut factor = Self { order, importance, weights: vec![0.0; n], feedback: vec![0.0; row_start(n, n)] };
        // From the last column to the first: it leaves a rank-one part to those before it. Several at a time, so that rows are
        // read and written once for all of them; what happens to a number happens in the same order.
        while !a.is_empty() {
            let first = a.len().saturating_sub(PANEL);
            let mut panel: Vec<Pivot> = a.drain(first..).map(|row| Pivot { row, d: 1.0 }).collect();
            for j in (0..panel.len()).rev() {
                let (before, last) = panel.split_at_mut(j);
                // Rounding can only make it too small; what is left then is damping.
                last[0].d = last[0].row[first + j].max(damping * 1e-3);
                let whole = 0..first + before.len();
                before.iter_mut().enumerate().for_each(|(i, pivot)| last[0].take_off(first + i, whole.clone(), &mut pivot.row));
            }
            take_off(&panel, &mut a, threads);
            for (j, pivot) in (first..).zip(&panel) {
                factor.weights[j] = pivot.d as f32;
                (0..j).for_each(|i| factor.feedback[row_start(n, i) + j - i - 1] = (pivot.row[i] / pivot.d) as f32);
            }
        }
        factor
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.order.len()
    }

    /// Which column comes when.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// What `errors` in a row of weights do to the squares of its products, in all: `e H eᵀ`.
    pub fn cost(&self, errors: &[f32]) -> f64 {
        let n = self.cols();
        let mut left: Vec<f64> = self.order.iter().map(|&c| f64::from(errors[c])).collect();
        for k in 0..n {
            let error = f64::from(errors[self.order[k]]);
            left[k + 1..].iter_mut().zip(self.feedback(k, k + 1..n)).for_each(|(e, u)| *e += error * f64::from(*u));
        }
        left.iter().zip(&self.weights).map(|(e, d)| f64::from(*d) * e * e).sum()
    }

    /// Mean square of each column.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// How much of an error in column `k`, in that order, those of `columns`, all behind it, make up for.
    #[inline(always)]
    pub(crate) fn feedback(&self, k: usize, columns: Range<usize>) -> &[f32] {
        let start = row_start(self.cols(), k);
        &self.feedback[start + columns.start - k - 1..start + columns.end - k - 1]
    }
}

/// Where row `k` of what is above the diagonal of an `n` by `n` matrix begins.
#[inline(always)]
fn row_start(n: usize, k: usize) -> usize {
    k * (2 * n - k).saturating_sub(1) / 2
}

/// Columns that are factored together.
const PANEL: usize = 64;
/// Columns of a row from which all of a panel is taken off together: they stay in the nearest cache.
const TILE: usize = 512;

/// A row of the triangle that is done, and its diagonal.
struct Pivot {
    row: Vec<f64>,
    d: f64,
}

impl Pivot {
    /// Takes off what it leaves to `columns` of row `i`.
    #[inline(always)]
    fn take_off(&self, i: usize, columns: Range<usize>, row: &mut [f64]) {
        let u = self.row[i] / self.d;
        let columns = columns.start..columns.end.min(i + 1);
        for (a, l) in row[columns.clone()].iter_mut().zip(&self.row[columns]) {
            *a -= u * l;
        }
    }
}

/// Takes off what all of `panel`, the last first, leave to the `rows` before it.
fn take_off(panel: &[Pivot], rows: &mut [Vec<f64>], threads: usize) {
    let threads = threads.clamp(1, rows.len().max(1));
    let mut shares: Vec<Vec<(usize, &mut Vec<f64>)>> = (0..threads).map(|_| Vec::new()).collect();
    rows.iter_mut().enumerate().for_each(|(i, row)| shares[i % threads].push((i, row)));
    thread::scope(|scope| {
        for mut share in shares {
            scope.spawn(move || isa().run(TakeOff { panel, rows: &mut share }));
        }
    });
}

/// Takes off what all of a panel leave to some rows, each with its place.
struct TakeOff<'a, 'b> {
    panel: &'a [Pivot],
    rows: &'a mut [(usize, &'b mut Vec<f64>)],
}

impl Wide for TakeOff<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let longest = self.rows.last().map_or(0, |(i, _)| i + 1);
        for start in (0..longest).step_by(TILE) {
            for (i, row) in self.rows.iter_mut().filter(|(i, _)| *i >= start) {
                for pivot in self.panel.iter().rev() {
                    pivot.take_off(*i, start..start + TILE, row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{moments::tests::moments, testing::noise};
    use std::cmp::Ordering;

    impl Factor {
        /// `D` and an entry of `U + I`.
        pub(crate) fn weight(&self, k: usize) -> f64 {
            f64::from(self.weights[k])
        }

        pub(crate) fn unit_upper(&self, i: usize, k: usize) -> f64 {
            match i.cmp(&k) {
                Ordering::Less => f64::from(self.feedback(i, k..k + 1)[0]),
                Ordering::Equal => 1.0,
                Ordering::Greater => 0.0,
            }
        }
    }

    #[test]
    fn panels_and_threads_do_not_change_a_factor() {
        let n = TILE + PANEL + 7;
        let moments_again = || moments(n, 40);
        let (factor, moments) = (Factor::of(moments_again(), 1), moments_again());
        // One pivot after the other, each taken off all rows before it.
        let mean = (0..n).map(|i| f64::from(moments.sum(i, i))).sum::<f64>() / n as f64;
        let of = |i: usize, k: usize| f64::from(moments.sum(factor.order[i], factor.order[k]));
        let mut a: Vec<Vec<f64>> = (0..n).map(|i| (0..=i).map(|k| of(i, k)).collect()).collect();
        (0..n).for_each(|i| a[i][i] += mean * DAMPING);
        while let Some(last) = a.pop() {
            let j = a.len();
            let d = last[j].max(mean * DAMPING * 1e-3);
            assert_eq!(factor.weights[j], d as f32);
            for (i, row) in a.iter_mut().enumerate() {
                let share = last[i] / d;
                assert_eq!(factor.unit_upper(i, j), f64::from(share as f32), "{i} {j}");
                row.iter_mut().zip(&last).for_each(|(a, l)| *a -= share * l);
            }
        }
        for threads in [2, 3, 7] {
            let other = Factor::of(moments_again(), threads);
            assert!(other.feedback == factor.feedback && other.weights == factor.weights, "{threads} threads");
        }
    }

    #[test]
    fn a_factor_multiplies_out_to_what_was_factored() {
        let factor = Factor::of(moments(40, 90), 3);
        let moments = moments(40, 90);
        let order = factor.order();
        let mean = (0..40).map(|i| f64::from(moments.sum(i, i))).sum::<f64>() / 40.0;
        for i in 0..40 {
            for k in 0..40 {
                let product: f64 = (0..40).map(|d| factor.unit_upper(i, d) * factor.weight(d) * factor.unit_upper(k, d)).sum();
                let damped = f64::from(moments.sum(order[i], order[k])) + if i == k { mean * DAMPING } else { 0.0 };
                assert!((product - damped).abs() < 1e-4 * mean, "{i} {k}: {product} for {damped}");
            }
        }
        let errors = noise(40, 7);
        let (cost, plain) = (factor.cost(&errors), moments.cost(&errors) * moments.tokens() as f64);
        assert!(cost > plain && cost < 1.02 * plain, "{cost} for {plain}, damped");
        assert!(order.is_sorted_by(|&a, &b| moments.sum(a, a) >= moments.sum(b, b)));
    }

    #[test]
    fn inputs_that_are_all_zero_have_a_factor_too() {
        let factor = Factor::of(Moments::none(3).unwrap(), 1);
        assert!(factor.feedback.iter().all(|&u| u == 0.0) && factor.weights.iter().all(|&d| d == 1.0));
    }
}
