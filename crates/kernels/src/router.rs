//! Choosing experts. A token goes to those with the largest logits; of equals, those with the lower number; NaN is below everything.

use crate::math::exp_lanes;
use crate::rows::{largest, vector, write};
use crate::simd::{Kernel, LANES, Simd};

/// The `chosen` experts of each row of `logits` `[tokens, experts]`, in the order of their numbers: `[tokens, chosen]`.
pub(crate) fn choose(logits: &[f32], experts: usize, chosen: usize) -> Vec<usize> {
    let mut all = Vec::with_capacity(logits.len() / experts * chosen);
    let mut order = Vec::with_capacity(experts);
    for row in logits.chunks_exact(experts) {
        // Signed zeros are equal.
        let key = |&expert: &usize| if row[expert].is_nan() { f32::NEG_INFINITY } else { row[expert] + 0.0 };
        order.clear();
        order.extend(0..experts);
        // Stable: equals stay in order.
        order.sort_by(|a, b| row[*a].is_nan().cmp(&row[*b].is_nan()).then(key(b).total_cmp(&key(a))));
        order.truncate(chosen);
        order.sort_unstable();
        all.extend_from_slice(&order);
    }
    all
}

/// Puts in the place of a chosen expert's logit its weight, e^(logit − largest) / W, where W is the sum of these over all experts, in
/// lanes, or, if `normalized`, over those chosen, in order. What else is in the rows after that means nothing.
pub(crate) struct Weigh<'a> {
    /// `[tokens, experts]`.
    pub(crate) rows: &'a mut [f32],
    pub(crate) experts: usize,
    /// `[tokens, chosen]`.
    pub(crate) choices: &'a [usize],
    pub(crate) chosen: usize,
    pub(crate) normalized: bool,
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for (row, choices) in self.rows.chunks_exact_mut(self.experts).zip(self.choices.chunks_exact(self.chosen)) {
            let max = S::splat(largest::<S>(row));
            let mut all = S::splat(0.0);
            for at in (0..row.len()).step_by(LANES) {
                let x = exp_lanes::<S>(S::sub(vector::<S>(row, at, f32::NEG_INFINITY), max));
                all = S::add(all, x);
                write::<S>(row, at, x);
            }
            let mut sum = S::sum(all);
            if self.normalized {
                sum = 0.0;
                for &expert in choices {
                    sum += row[expert];
                }
            }
            for &expert in choices {
                let weight = row[expert] / sum;
                row[expert] = if weight.is_nan() { f32::NAN } else { weight };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_of_equals_the_first() {
        let rows = [0.0, 1.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(choose(&rows, 4, 1), [1, 1]);
        assert_eq!(choose(&rows, 4, 2), [1, 3, 1, 2]);
        assert_eq!(choose(&rows, 4, 3), [0, 1, 3, 0, 1, 2]);
    }
}
