//! Exponentials, logarithms, sines and cosines from the operations of the contract alone, so that their bits are the same
//! on every platform. Bounds are measured in the tests below and quoted in docs/numerics.md.

use crate::simd::{Scalar, Simd};

/// eˣ, within 1.1 units in the last place; denormals included.
pub fn exp_f32(x: f32) -> f32 {
    exp_lanes::<Scalar>(Scalar::splat(x))[0]
}

/// eˣ in each lane: x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial for eʳ, and 2ⁿ in two factors, so that the last
/// multiplication rounds denormals once and overflows to infinity.
#[inline(always)]
pub(crate) fn exp_lanes<S: Simd>(x: S::F) -> S::F {
    // A NaN passes both bounds as the second operand.
    let x = S::max(S::splat(-105.0), S::min(S::splat(90.0), x));
    let shifted = S::add(S::mul(x, S::splat(std::f32::consts::LOG2_E)), S::splat(ROUND_F32));
    let n = S::sub(shifted, S::splat(ROUND_F32));
    // ln 2 in two parts; the first has few enough bits that its product with n is exact.
    let r = S::sub(x, S::mul(n, S::splat(f32::from_bits(0x3f31_8000))));
    let r = S::sub(r, S::mul(n, S::splat(f32::from_bits(0xb95e_8083))));
    let mut p = S::splat(EXP_TERMS[0]);
    for i in 1..EXP_TERMS.len() {
        p = S::add(S::mul(p, r), S::splat(EXP_TERMS[i]));
    }
    let p = S::add(S::add(S::mul(S::mul(p, r), r), r), S::splat(1.0));
    let n = S::add_i(S::bits(shifted), S::splat_i(-(ROUND_F32.to_bits() as i32)));
    let half = S::sar(n, 1);
    let rest = S::add_i(n, S::mul_i(half, S::splat_i(-1)));
    S::mul(S::mul(p, power_of_two::<S>(half)), power_of_two::<S>(rest))
}

/// bound · tanh(x / bound) in each lane, where tanh z = 1 − 2 / (1 + e²ᶻ).
#[inline(always)]
pub(crate) fn softcap_lanes<S: Simd>(x: S::F, bound: f32) -> S::F {
    let (one, two) = (S::splat(1.0), S::splat(2.0));
    let power = exp_lanes::<S>(S::mul(two, S::div(x, S::splat(bound))));
    S::mul(S::splat(bound), S::sub(one, S::div(two, S::add(one, power))))
}

/// 1/7!, 1/6! … 1/2!.
const EXP_TERMS: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two<S: Simd>(n: S::I) -> S::F {
    S::from_bits(S::shl(S::add_i(n, S::splat_i(127)), 23))
}

/// Added and subtracted, they round to integers, ties to even.
const ROUND_F32: f32 = 12_582_912.0;
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// eˣ, within 2 units in the last place; results under 2⁻¹⁰²² are zero.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    if !(-708.0..=709.78).contains(&x) {
        return if x > 0.0 { f64::INFINITY } else { 0.0 };
    }
    let n = (x * std::f64::consts::LOG2_E + ROUND_F64) - ROUND_F64;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor's series; the term after 1/13! is under 2⁻⁵⁷.
    let p = (2..=13).rev().fold(0.0, |p, k| (p + 1.0) * r / f64::from(k));
    let p = (p + 1.0) * r + 1.0;
    // Two factors, since n may be 1024.
    let (half, n) = ((n / 2.0) as i64, n as i64);
    let power = |n: i64| f64::from_bits(((n + 1023) as u64) << 52);
    p * power(half) * power(n - half)
}

/// ln 2 in two parts, the first short enough that its product with an exponent is exact.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// Natural logarithm, within 2 units in the last place; NaN below zero.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 || x.is_infinite() {
        return if x == 0.0 { f64::NEG_INFINITY } else { x };
    }
    // x = m·2ⁿ with √½ ≤ m < √2; denormals are first made normal.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * (1u64 << 54) as f64, 54) } else { (x, 0) };
    let bits = x.to_bits().wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let n = ((bits as i64) >> 52) - shift;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) + std::f64::consts::FRAC_1_SQRT_2.to_bits());
    // ln m = 2 artanh s; the term after s²³/23 is under 2⁻⁶⁵.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = (1..=11).rev().fold(0.0, |p, k| (p + 1.0 / f64::from(2 * k + 1)) * z);
    // 2s = f − s·f, so f itself, exact, leads the sum.
    let n = n as f64;
    n * LN2_HIGH + (f + (n * LN2_LOW - s * (f - 2.0 * series)))
}

/// `base` to the power `exponent`, for a positive base: within 2⁻⁵⁰·(1 + |exponent · ln base|) of its value.
pub fn pow(base: f64, exponent: f64) -> f64 {
    exp(exponent * ln(base))
}

/// Sine and cosine of an angle in radians, within 2⁻⁵⁰ for |x| ≤ 2²⁴; NaN beyond 2⁴⁰.
pub fn sin_cos(x: f64) -> (f64, f64) {
    if x.is_nan() || x.abs() > (1u64 << 40) as f64 {
        return (f64::NAN, f64::NAN);
    }
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND_F64) - ROUND_F64;
    let r = HALF_PI.iter().fold(x, |r, part| r - n * part);
    let z = r * r;
    // Taylor's series; the terms left out are under 2⁻⁶⁰ for |r| ≤ π/4.
    let sin = r - r * (1..=9).rev().fold(0.0, |p, k| (1.0 - p) * z / f64::from(2 * k * (2 * k + 1)));
    let cos = 1.0 - (1..=9).rev().fold(0.0, |p, k| (1.0 - p) * z / f64::from(2 * k * (2 * k - 1)));
    match n as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// π/2 in parts of 26 bits, whose products with n < 2²⁷ are exact, and a rest.
const HALF_PI: [f64; 4] = [
    f64::from_bits(0x3ff9_21fb_5000_0000),
    f64::from_bits(0x3e51_10b4_6000_0000),
    f64::from_bits(0x3c91_a626_3000_0000),
    f64::from_bits(0x3ae8_a2e0_3707_344a),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, LANES};

    /// Distance from `got` to `exact` in units in the last place of f32 at `exact`.
    fn ulps_f32(got: f32, exact: f64) -> f64 {
        let unit = 2f64.powi((exact.abs().max(2f64.powi(-126))).log2().floor() as i32 - 23);
        (f64::from(got) - exact).abs() / unit
    }

    fn ulps_f64(got: f64, exact: f64) -> f64 {
        (got - exact).abs() / (f64::from_bits(exact.abs().to_bits() + 1) - exact.abs())
    }

    /// The platform's f64 functions are within a unit in their own last place.
    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, and too much of it")]
    fn exp_f32_is_within_its_bound_from_end_to_end() {
        let mut worst = 0f64;
        for i in 0..=2_000_000 {
            let x = (-104.5 + 194.0 * f64::from(i) / 2e6) as f32;
            let exact = f64::from(x).exp();
            if exact < f64::from(f32::MAX) {
                worst = worst.max(ulps_f32(exp_f32(x), exact));
            } else {
                assert_eq!(exp_f32(x), f32::INFINITY, "exp({x})");
            }
        }
        assert!(worst < 1.1, "{worst} units in the last place");
        for (x, y) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::NEG_INFINITY, 0.0),
            (-1e30, 0.0),
            (1e30, f32::INFINITY),
        ] {
            assert_eq!(exp_f32(x).to_bits(), f32::to_bits(y), "exp({x})");
        }
        assert!(exp_f32(f32::NAN).is_nan());
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, and too much of it")]
    fn exp_lanes_are_the_same_on_every_isa() {
        struct Exp<'a>(&'a mut [f32]);
        impl Kernel for Exp<'_> {
            #[inline(always)]
            fn run<S: Simd>(self) {
                for x in self.0.chunks_exact_mut(LANES) {
                    // SAFETY: a chunk is sixteen floats.
                    unsafe { S::store(x.as_mut_ptr(), S::canon(exp_lanes::<S>(S::load(x.as_ptr())))) };
                }
            }
        }
        let x: Vec<f32> = (0..1 << 20).map(|i: u32| f32::from_bits((i << 12) | (i % 4093))).collect();
        for isa in Isa::available() {
            let mut y = x.clone();
            isa.dispatch(Exp(&mut y));
            for (x, y) in x.iter().zip(&y) {
                let want = exp_f32(*x);
                let want = if want.is_nan() { f32::NAN } else { want };
                assert_eq!(y.to_bits(), want.to_bits(), "exp({x:e}) on {}", isa.name());
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, and too much of it")]
    fn exp_ln_and_pow_are_within_their_bounds() {
        let (mut worst_exp, mut worst_ln, mut worst_pow) = (0f64, 0f64, 0f64);
        for i in 1..=400_000u32 {
            let x = -708.0 + 1417.0 * f64::from(i) / 4e5;
            worst_exp = worst_exp.max(ulps_f64(exp(x), x.exp()));
            let y = f64::from_bits(u64::from(i) * 23_058_430_092_136);
            worst_ln = worst_ln.max(ulps_f64(ln(y), y.ln()));
            let y = 0.5 + f64::from(i) / 2e5;
            worst_ln = worst_ln.max(ulps_f64(ln(y), y.ln()));
            let e = -f64::from(i) / 4e5;
            let size = 1.0 + (e * 5e5f64.ln()).abs();
            worst_pow = worst_pow.max((pow(5e5, e) / 5e5f64.powf(e) - 1.0).abs() / size);
        }
        assert!(worst_exp < 2.0 && worst_ln < 2.0 && worst_pow < 2f64.powi(-50), "{worst_exp} {worst_ln} {worst_pow}");
        assert_eq!((ln(1.0), ln(0.0), ln(f64::INFINITY)), (0.0, f64::NEG_INFINITY, f64::INFINITY));
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan() && exp(f64::NAN).is_nan());
        assert_eq!((exp(710.0), exp(-745.2), exp(0.0)), (f64::INFINITY, 0.0, 1.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic alone, and too much of it")]
    fn sin_cos_is_within_its_bound() {
        let mut worst = 0f64;
        for i in 0..1_000_000u32 {
            for x in [f64::from(i) * 0.37 - 1e5, f64::from(i) * 16.777, f64::from(i) * 1e-6] {
                let (sin, cos) = sin_cos(x);
                worst = worst.max((sin - x.sin()).abs()).max((cos - x.cos()).abs());
            }
        }
        assert!(worst < 2f64.powi(-50), "{worst:e}");
        assert!(sin_cos(f64::INFINITY).0.is_nan() && sin_cos(1e13).1.is_nan());
    }
}
