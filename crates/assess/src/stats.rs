//! Summaries of samples, in f64 and in the samples' order, so that they have the same bits everywhere.

use crate::figures::Reading;

/// Mean with its standard error (n − 1 in the variance; none for fewer than two samples). NaN for no samples.
pub(crate) fn mean(samples: &[f64]) -> Reading {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    let standard_error = (samples.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    Reading { value: mean, standard_error }
}

/// `exp` of a mean; its standard error to first order.
pub(crate) fn exp(of: Reading) -> Reading {
    let value = coffer_kernels::math::exp(of.value);
    Reading { value, standard_error: of.standard_error.map(|e| e * value) }
}

/// Share of `true` with its binomial standard error.
pub(crate) fn share(hits: usize, of: usize) -> Reading {
    let value = hits as f64 / of as f64;
    Reading { value, standard_error: Some((value * (1.0 - value) / of as f64).sqrt()) }
}

/// The smallest sample that at least `percent` % of the samples do not exceed (nearest rank); NaN for no samples.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let r = mean(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(r.value, 5.0);
        assert!((r.standard_error.unwrap() - (32.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean(&[3.0]).standard_error, None);
        assert!(mean(&[]).value.is_nan());
        let e = exp(Reading { value: 2.0, standard_error: Some(0.5) });
        assert!((e.value - 2f64.exp()).abs() < 1e-14 && (e.standard_error.unwrap() - 0.5 * 2f64.exp()).abs() < 1e-14);
        assert_eq!(share(3, 4).value, 0.75);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred, 100), 100.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[1.0, 2.0], 50), 1.0);
        assert_eq!(percentile(&[1.0, 2.0], 51), 2.0);
        assert!(percentile(&[], 99).is_nan());
    }
}
