//! The Pareto front of size against divergence.

/// What the front is, for reports.
pub const DEFINITION: &str = "A variant is on the Pareto front if no other one is at least as small and at least as close to the \
                              reference, and better in one of the two. Size is bytes of weights, closeness the mean KL divergence.";

/// One model in the plane of costs; smaller is better in both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Bytes of weights.
    pub bytes: u64,
    /// Mean KL divergence from the reference.
    pub kl_mean: f64,
}

/// For each model whether it is on the front. Equal models are all on it or none is; a divergence that is not a number never is.
pub fn front(models: &[Costs]) -> Vec<bool> {
    models.iter().map(|m| !m.kl_mean.is_nan() && !models.iter().any(|other| dominates(other, m))).collect()
}

fn dominates(a: &Costs, b: &Costs) -> bool {
    a.bytes <= b.bytes && a.kl_mean <= b.kl_mean && (a.bytes < b.bytes || a.kl_mean < b.kl_mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn costs(bytes: u64, kl_mean: f64) -> Costs {
        Costs { bytes, kl_mean }
    }

    #[test]
    fn a_model_that_is_larger_and_worse_is_off_the_front() {
        let models = [costs(16, 0.0), costs(8, 0.1), costs(8, 0.2), costs(9, 0.1), costs(4, 0.5), costs(4, f64::NAN)];
        assert_eq!(front(&models), [true, true, false, false, true, false]);
    }

    proptest! {
        #[test]
        fn the_front_is_what_a_sweep_by_size_finds(points in prop::collection::vec((0u64..20, 0u32..20), 1..40)) {
            let models: Vec<_> = points.iter().map(|&(b, k)| costs(b, f64::from(k))).collect();
            let mut order: Vec<usize> = (0..models.len()).collect();
            order.sort_by(|&a, &b| (models[a].bytes, models[a].kl_mean).partial_cmp(&(models[b].bytes, models[b].kl_mean)).unwrap());
            let mut want = vec![false; models.len()];
            let mut best: Option<Costs> = None;
            for i in order {
                let m = models[i];
                if best.is_none_or(|b| m.kl_mean < b.kl_mean || m == b) {
                    want[i] = true;
                    best = Some(m);
                }
            }
            prop_assert_eq!(front(&models), want);
        }
    }
}
