//! `exp` and `ln` in f64 from additions, multiplications and divisions alone, so that they give the same bits on every
//! machine. The error is below 1e-15 of the result, far finer than the f32 that is made of them.

use std::f64::consts::{LN_2, SQRT_2};

/// ln 2 in two parts, the first of 33 bits, so that its product with an exponent is exact (Cody and Waite's reduction).
const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);

/// e to the `x`; 0 below −700, infinite above 700.
pub(crate) fn exp(x: f64) -> f64 {
    if x.is_nan() || x > 700.0 {
        return x + f64::INFINITY;
    }
    if x < -700.0 {
        return 0.0;
    }
    let k = (x / LN_2).round_ties_even();
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    // Taylor's series by Horner's rule: |r| < 0.35, so the term after the last is below 1e-18.
    let series = (1..=14).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    series * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

/// Natural logarithm of a positive, normal `x`.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut k = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > SQRT_2 {
        m *= 0.5;
        k += 1;
    }
    // ln m = 2 artanh((m − 1) / (m + 1)); |s| < 0.172, so the term after the last is below 1e-18.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..=11).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    let k = k as f64;
    k * LN_2_HIGH + (2.0 * s * series + k * LN_2_LOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: f64, want: f64) -> bool {
        (got - want).abs() <= 1e-15 * want.abs().max(1e-300)
    }

    proptest! {
        /// The platform's functions are the reference here, and nowhere else.
        #[test]
        fn agree_with_the_platform(x in -690.0..690.0f64, y in 1e-300..1e300f64, z in 0.5..2.0f64) {
            prop_assert!(close(exp(x), x.exp()), "exp {x}: {} {}", exp(x), x.exp());
            prop_assert!(close(ln(y), y.ln()), "ln {y}: {} {}", ln(y), y.ln());
            prop_assert!((ln(z) - z.ln()).abs() <= 2e-16, "ln {z}: {} {}", ln(z), z.ln());
        }
    }

    #[test]
    fn special_values() {
        assert_eq!((exp(0.0), ln(1.0), exp(-1e9)), (1.0, 0.0, 0.0));
        assert_eq!(exp(1e9), f64::INFINITY);
        assert!(exp(f64::NAN).is_nan());
    }
}
