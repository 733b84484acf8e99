//! Blocks of 32 with one scale (and one minimum): Q8_0, Q4_0, Q4_1, Q5_0, Q5_1. Byte for byte ggml's reference encoders.

use super::{Overflow, each_block, greatest, least, pack, reciprocal, to_f16};

/// `d` (f16), 32 signed bytes: `x ≈ d·q`.
pub(super) fn q8_0(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 34>(values, None, out, |x, _, out| {
        let largest = x.iter().fold(0.0, |m, v| greatest(v.abs(), m));
        let d = largest / 127.0;
        let inverse = reciprocal(d);
        let (scale, codes) = out.split_at_mut(2);
        scale.copy_from_slice(&to_f16(d)?.to_le_bytes());
        for (c, v) in codes.iter_mut().zip(x) {
            *c = round_away(v * inverse) as i8 as u8;
        }
        Some(())
    })
}

/// `d` (f16), 16 bytes of nibbles, value `i` low and value `i + 16` high: `x ≈ d·(q − 8)`.
pub(super) fn q4_0(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 18>(values, None, out, |x, _, out| {
        let d = signed_largest(x) / -8.0;
        let inverse = reciprocal(d);
        pack::halves([to_f16(d)?], out);
        pack::nibbles(&x.map(|v| least(v * inverse + 8.5, 15.0) as u8), &mut out[2..]);
        Some(())
    })
}

/// `d` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·(q − 16)`.
pub(super) fn q5_0(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 22>(values, None, out, |x, _, out| {
        let d = signed_largest(x) / -16.0;
        let inverse = reciprocal(d);
        pack::halves([to_f16(d)?], out);
        pack::five_bits(&x.map(|v| least(v * inverse + 16.5, 31.0) as u8), &mut out[2..]);
        Some(())
    })
}

/// `d`, `m` (f16), 16 bytes of nibbles: `x ≈ d·q + m`.
pub(super) fn q4_1(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 20>(values, None, out, |x, _, out| {
        let codes = range_codes::<15>(x, out)?;
        pack::nibbles(&codes, &mut out[4..]);
        Some(())
    })
}

/// `d`, `m` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·q + m`.
pub(super) fn q5_1(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 24>(values, None, out, |x, _, out| {
        let codes = range_codes::<31>(x, out)?;
        pack::five_bits(&codes, &mut out[4..]);
        Some(())
    })
}

/// Writes scale and minimum and returns codes: the range spread over 0 to `MAX`.
fn range_codes<const MAX: u8>(x: &[f32; 32], out: &mut [u8]) -> Option<[u8; 32]> {
    let low = x.iter().fold(f32::MAX, |m, &v| least(v, m));
    let high = x.iter().fold(f32::MIN, |m, &v| greatest(v, m));
    let d = (high - low) / f32::from(MAX);
    let inverse = reciprocal(d);
    pack::halves([to_f16(d)?, to_f16(low)?], out);
    Some(x.map(|v| least((v - low) * inverse + 0.5, f32::from(MAX)) as u8))
}

/// The value of largest magnitude with its sign; the first of equals.
fn signed_largest(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// The nearest integer, halves away from zero: the largest `f32` below a half is added, then the fraction is cut off.
fn round_away(v: f32) -> i32 {
    (v + 0.499_999_97_f32.copysign(v)) as i32
}
