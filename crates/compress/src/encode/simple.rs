//! Blocks of 32 with one scale (and one minimum): Q8_0, Q4_0, Q5_0, Q5_1. Byte for byte ggml's reference encoders.

use super::{Overflow, each_block, greatest, least, reciprocal, to_f16};

/// `d` (f16), 32 signed bytes: `x ≈ d·q`.
pub(super) fn q8_0(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 34>(values, out, |x, out| {
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
    each_block::<32, 18>(values, out, |x, out| {
        let d = signed_largest(x) / -8.0;
        let inverse = reciprocal(d);
        let code = |v: f32| (least(v * inverse + 8.5, 15.0)) as u8;
        let (scale, codes) = out.split_at_mut(2);
        scale.copy_from_slice(&to_f16(d)?.to_le_bytes());
        for (i, c) in codes.iter_mut().enumerate() {
            *c = code(x[i]) | code(x[i + 16]) << 4;
        }
        Some(())
    })
}

/// `d` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·(q − 16)`.
pub(super) fn q5_0(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 22>(values, out, |x, out| {
        let d = signed_largest(x) / -16.0;
        let inverse = reciprocal(d);
        out[..2].copy_from_slice(&to_f16(d)?.to_le_bytes());
        pack_five_bits(x.map(|v| least(v * inverse + 16.5, 31.0) as u8), &mut out[2..]);
        Some(())
    })
}

/// `d`, `m` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·q + m`.
pub(super) fn q5_1(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<32, 24>(values, out, |x, out| {
        let low = x.iter().fold(f32::MAX, |m, &v| least(v, m));
        let high = x.iter().fold(f32::MIN, |m, &v| greatest(v, m));
        let d = (high - low) / 31.0;
        let inverse = reciprocal(d);
        out[..2].copy_from_slice(&to_f16(d)?.to_le_bytes());
        out[2..4].copy_from_slice(&to_f16(low)?.to_le_bytes());
        pack_five_bits(x.map(|v| ((v - low) * inverse + 0.5) as u8), &mut out[4..]);
        Some(())
    })
}

/// Fifth bits as a little-endian word, then nibbles.
fn pack_five_bits(codes: [u8; 32], out: &mut [u8]) {
    let (high, low) = out.split_at_mut(4);
    let word = codes.iter().enumerate().fold(0u32, |w, (i, &c)| w | u32::from(c >> 4) << i);
    high.copy_from_slice(&word.to_le_bytes());
    for (i, c) in low.iter_mut().enumerate() {
        *c = codes[i] & 15 | (codes[i + 16] & 15) << 4;
    }
}

/// The value of largest magnitude with its sign; the first of equals.
fn signed_largest(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// The nearest integer, halves away from zero: the largest `f32` below a half is added, then the fraction is cut off.
fn round_away(v: f32) -> i32 {
    (v + 0.499_999_97_f32.copysign(v)) as i32
}
