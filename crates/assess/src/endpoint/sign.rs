//! The sign test.

/// Probability of `hits` or more heads among `n` throws of a fair coin. Exact but for rounding; `n` is at most [`MOST`].
pub(super) fn at_least(hits: usize, n: usize) -> f64 {
    let mut term = 0.5f64.powi(n.min(MOST) as i32);
    let mut sum = 0.0;
    for k in 0..=n {
        if n - k < hits {
            break;
        }
        // C(n, k) / 2ⁿ: as many ways to miss k times.
        sum += term;
        term = term * (n - k) as f64 / (k + 1) as f64;
    }
    sum.min(1.0)
}

/// 2⁻ⁿ is a normal number up to here.
pub(super) const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    /// `sum(comb(n, k) for k in range(hits, n + 1)) / 2**n` in exact fractions of Python
    #[test]
    fn known_answers() {
        for (hits, n, want) in [
            (0, 0, 1.0),
            (0, 10, 1.0),
            (10, 10, 0.0009765625),
            (8, 10, 0.0546875),
            (5, 10, 0.623046875),
            (40, 64, 0.029970594783499616),
            (600, 1000, 1.3642320780330092e-10),
            (1000, 1000, 9.332636185032189e-302),
        ] {
            let got = at_least(hits, n);
            assert!((got - want).abs() <= want * 1e-9, "{hits} of {n}: {got}, want {want}");
        }
    }
}
