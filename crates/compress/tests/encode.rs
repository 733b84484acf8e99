//! Encoders against ggml's bytes, against plain searches in `f64`, and at the edges of their formats.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

use coffer_checkpoint::{DType, blocks};
use coffer_compress::encode::{EncodeError, encode};
use proptest::prelude::*;

fn encoded(dtype: DType, values: &[f32]) -> Result<Vec<u8>, EncodeError> {
    let mut out = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
    encode(dtype, values, None, &mut out)?;
    Ok(out)
}

fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    blocks::decode(dtype, &encoded(dtype, values).unwrap(), &mut out).unwrap();
    out
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// −1 to 1, by Knuth's multiplicative hash.
fn hashed(n: u32) -> Vec<f32> {
    (1..=n).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 / 2_147_483_648.0).collect()
}

/// Roughly normal values with a few large ones, as weights are.
fn weights(n: u32) -> Vec<f32> {
    let part = |i: u32| (i.wrapping_mul(2_654_435_761) ^ 0x5bd1_e995).wrapping_mul(0x85eb_ca6b) as i32 as f32 / 2_147_483_648.0;
    (0..n).map(|i| (0..6).map(|k| part(6 * i + k)).sum::<f32>() * if i % 97 == 0 { 0.06 } else { 0.02 }).collect()
}

/// Bytes from gguf-py 0.18 (`gguf.quants.quantize`), which are ggml's.
#[test]
fn simple_formats_give_ggmls_bytes() {
    for (dtype, expected) in [
        (DType::Q8_0, "f51f9e3dda7a17b554f28f2ecc6b09a746e38120be5dfb9837d57412af4eec8a29c7"),
        (DType::Q4_0, "e52f02ac46ef8913bd57f19b35df7912bc46"),
        (DType::Q5_0, "e52b5a5a4a4b04488bcff3377bbef22669aee115599c"),
        (DType::Q5_1, "f92be5bb5a5a4a4b04478bbff3367aaee22669add115599c"),
    ] {
        let hex: String = encoded(dtype, &hashed(32)).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected, "{dtype}");
    }
}

#[test]
fn q8_0_rounds_halves_away_from_zero() {
    let mut values = [0.0f32; 32];
    values[..6].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, 2.5, 0.499_999_97]);
    let codes = &encoded(DType::Q8_0, &values).unwrap()[2..8];
    assert_eq!(codes, [127, 1, 255, 2, 3, 0]);
}

/// The least error of a search in `f64` over the same kind of candidates, one sub-block at a time, without the
/// rounding of scales that the format then demands.
fn ideal_error(x: &[f32], low_code: f64, high_code: f64, has_min: bool) -> f64 {
    let low = if has_min { x.iter().fold(0.0f64, |m, &v| m.min(f64::from(v))) } else { 0.0 };
    let reach = x.iter().fold(0.0f64, |m, &v| m.max((f64::from(v) - low).abs()));
    let error = |scale: f64, min: f64| {
        let one = |v: f64| (scale * ((v - min) / scale).round().clamp(low_code, high_code) + min - v).powi(2);
        x.iter().map(|&v| one(f64::from(v))).sum::<f64>()
    };
    let mins = if has_min { 21 } else { 1 };
    let candidates = (0..60).flat_map(|s| (0..mins).map(move |m| (s, m)));
    candidates
        .map(|(s, m)| error(reach / (high_code - 1.5 + 0.05 * f64::from(s)), low * (0.9 + 0.01 * f64::from(m))))
        .fold(f64::MAX, f64::min)
}

#[test]
fn searched_scales_come_close_to_a_plain_search_without_limits_on_scales() {
    let values = weights(256 * 24);
    for (dtype, sub, low, high, has_min, allowed) in [
        (DType::Q4_K, 32, 0.0, 15.0, true, 1.06),
        (DType::Q5_K, 32, 0.0, 31.0, true, 1.12),
        (DType::Q6_K, 16, -32.0, 31.0, false, 1.06),
        (DType::Q3_K, 16, -4.0, 3.0, false, 1.06),
        (DType::Q2_K, 16, 0.0, 3.0, true, 1.2),
    ] {
        let ideal: f64 = values.chunks(sub).map(|x| ideal_error(x, low, high, has_min)).sum();
        let real = squared_error(&values, &there_and_back(dtype, &values));
        assert!(real < ideal * allowed, "{dtype}: {real:e} against {ideal:e}, {}", real / ideal);
    }
}

/// Every type that stores quantized blocks.
fn all() -> impl Iterator<Item = DType> {
    DType::QUANTIZED.into_iter().chain(DType::COMPRESSED)
}

/// Against compressed-tensors' own rounding: the scale is the largest magnitude over 7.5, or the range over 15, whatever that loses.
#[test]
fn groups_of_four_bits_lose_less_than_with_scales_of_the_extremes() {
    let values = weights(128 * 64);
    let bf16 = |v: f32| half::bf16::from_f32(v).to_f32();
    for (dtype, group, zero) in
        [(DType::W4_G128, 128, false), (DType::W4_G32, 32, false), (DType::W4Z_G128, 128, true), (DType::W4Z_G32, 32, true)]
    {
        let mut plain = Vec::new();
        for x in values.chunks(group) {
            let (low, high) = (x.iter().fold(0.0f32, |m, v| m.min(*v)), x.iter().fold(0.0f32, |m, v| m.max(*v)));
            let (scale, offset) = if zero {
                (bf16((high - low) / 15.0), (-8.0 - low / ((high - low) / 15.0)).round())
            } else {
                (bf16(high.max(-low) / 7.5), 0.0)
            };
            plain.extend(x.iter().map(|v| ((v / scale).round() + offset).clamp(-8.0, 7.0) - offset).map(|q| q * scale));
        }
        let (ours, theirs) = (squared_error(&values, &there_and_back(dtype, &values)), squared_error(&values, &plain));
        assert!(ours < 0.92 * theirs, "{dtype}: {ours:e} against {theirs:e}");
    }
}

#[test]
fn zeros_stay_zeros_and_tiny_values_become_zeros_or_themselves() {
    for dtype in all() {
        assert!(there_and_back(dtype, &[0.0; 256]).iter().all(|v| *v == 0.0), "{dtype}");
        for tiny in [f32::from_bits(1), 1e-38, 1e-12] {
            assert!(there_and_back(dtype, &[tiny; 256]).iter().all(|v| v.abs() <= 1e-7), "{dtype} {tiny:e}");
        }
    }
}

#[test]
fn constant_rows_come_back_within_a_step() {
    for dtype in all() {
        for constant in [0.75f32, -0.75, 1000.0, -3e-4] {
            let back = there_and_back(dtype, &[constant; 256]);
            assert!(back.iter().all(|v| (v - constant).abs() <= 0.04 * constant.abs()), "{dtype} {constant}: {}", back[0]);
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused_by_position() {
    for dtype in all().chain([DType::F32, DType::F16, DType::BF16]) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 512];
            values[300] = bad;
            let error = encoded(dtype, &values).unwrap_err();
            assert!(matches!(error, EncodeError::NotFinite { index: 300, .. }), "{dtype}: {error}");
        }
    }
}

#[test]
fn values_beyond_the_format_are_refused_by_position() {
    let mut values = vec![1.0; 512];
    values[300] = f32::MAX;
    for (dtype, block) in [
        (DType::F16, 300),
        (DType::BF16, 300),
        (DType::Q8_0, 288),
        (DType::Q4_0, 288),
        (DType::Q5_0, 288),
        (DType::Q5_1, 288),
        (DType::Q4_1, 288),
        (DType::IQ4_NL, 288),
        (DType::Q2_K, 256),
        (DType::Q3_K, 256),
        (DType::IQ4_XS, 256),
        (DType::Q4_K, 256),
        (DType::Q5_K, 256),
        (DType::Q6_K, 256),
    ] {
        let error = encoded(dtype, &values).unwrap_err();
        assert!(matches!(error, EncodeError::Overflow { index, .. } if index == block), "{dtype}: {error}");
    }
}

#[test]
fn lengths_and_types_are_checked() {
    let mut out = [0; 34];
    assert!(matches!(encode(DType::Q8_0, &[0.0; 31], None, &mut out), Err(EncodeError::Length { .. })));
    assert!(matches!(encode(DType::Q8_0, &[0.0; 64], None, &mut out), Err(EncodeError::Length { .. })));
    assert!(matches!(encode(DType::I8, &[0.0; 34], None, &mut out), Err(EncodeError::Unsupported(DType::I8))));
}

proptest! {
    /// A step is the largest magnitude of the block over the codes on one side; K formats round scales as well.
    #[test]
    fn errors_are_bounded(values in prop::collection::vec(prop_oneof![4 => -1.0f32..1.0, 1 => -50.0f32..50.0, 1 => Just(0.0)], 256)) {
        for (dtype, steps) in [
            (DType::Q8_0, 127.0), (DType::Q4_0, 8.0), (DType::Q5_0, 16.0), (DType::Q5_1, 15.0),
            (DType::Q4_K, 7.0), (DType::Q5_K, 15.0), (DType::Q6_K, 31.0),
            (DType::Q4_1, 7.0), (DType::Q3_K, 3.0), (DType::Q2_K, 1.0), (DType::IQ4_NL, 5.0), (DType::IQ4_XS, 5.0),
            (DType::W4_G32, 2.9), (DType::W4_G128, 2.9), (DType::W4Z_G32, 2.9), (DType::W4Z_G128, 2.9),
            (DType::W8_ROW, 254.0), (DType::F8_ROW, 16.0),
        ] {
            let back = there_and_back(dtype, &values);
            for (x, y) in values.chunks(dtype.block_len()).zip(back.chunks(dtype.block_len())) {
                let x_or_row = if dtype.is_scaled_by_row() { &values[..] } else { x };
                let bound = largest(x_or_row) * (1.0 / steps) * 1.1 + 1e-6;
                for (x, y) in x.iter().zip(y) {
                    prop_assert!((x - y).abs() <= bound, "{} {} {} {}", dtype, x, y, bound);
                }
            }
        }
    }

    /// Columns that count more come back closer: in the weighted sum of squares, a search that knows the weights is not worse than
    /// one that does not, but for a little where the scales of a super-block are rounded together.
    #[test]
    fn weights_are_heeded(values in prop::collection::vec(-1.0f32..1.0, 1024), seed in any::<u64>()) {
        let weights: Vec<f32> = (0..1024u64).map(|i| [0.01, 1.0, 30.0][(seed.rotate_left(i as u32 % 64) % 3) as usize]).collect();
        let error = |dtype: DType, weights_known: Option<&[f32]>| {
            let mut raw = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
            encode(dtype, &values, weights_known, &mut raw).unwrap();
            let mut back = vec![0.0; values.len()];
            blocks::decode(dtype, &raw, &mut back).unwrap();
            let terms = values.iter().zip(&back).zip(&weights);
            terms.map(|((x, y), w)| f64::from(*w) * (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>()
        };
        for dtype in all() {
            let (known, unknown) = (error(dtype, Some(&weights)), error(dtype, None));
            prop_assert!(known <= 1.1 * unknown, "{}: {} known, {} unknown", dtype, known, unknown);
        }
    }

    /// Any finite values at all: an encoder either refuses them or gives numbers.
    #[test]
    fn no_bits_make_nan(bits in prop::collection::vec(any::<u32>(), 256)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).map(|v| if v.is_finite() { v } else { 0.0 }).collect();
        for dtype in all() {
            for values in [values.clone(), values.iter().map(|v| v % 60_000.0).collect()] {
                if encoded(dtype, &values).is_ok() {
                    prop_assert!(there_and_back(dtype, &values).iter().all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn plain_types_round_to_nearest_even(values in prop::collection::vec(-60_000.0f32..60_000.0, 1..200)) {
        prop_assert_eq!(&there_and_back(DType::F32, &values), &values);
        let halves: Vec<f32> = values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        prop_assert_eq!(there_and_back(DType::F16, &values), halves);
        let brains: Vec<f32> = values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
        prop_assert_eq!(there_and_back(DType::BF16, &values), brains);
    }
}
