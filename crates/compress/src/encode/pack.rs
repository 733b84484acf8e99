//! Codes and scales as bits, as ggml lays them out (`ggml-common.h`).

use half::f16;

/// Two bytes each.
#[inline(always)]
pub(super) fn halves<const N: usize>(halves: [f16; N], out: &mut [u8]) {
    for (o, h) in out.as_chunks_mut().0.iter_mut().zip(halves) {
        *o = h.to_le_bytes();
    }
}

/// Code `i` low and code `i + 16` high.
#[inline(always)]
pub(super) fn nibbles(codes: &[u8; 32], out: &mut [u8]) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = codes[i] & 15 | (codes[i + 16] & 15) << 4;
    }
}

/// Fifth bits as a little-endian word, then nibbles.
#[inline(always)]
pub(super) fn five_bits(codes: &[u8; 32], out: &mut [u8]) {
    let (high, low) = out.split_at_mut(4);
    let word = codes.iter().enumerate().fold(0u32, |w, (i, &c)| w | u32::from(c >> 4) << i);
    high.copy_from_slice(&word.to_le_bytes());
    nibbles(codes, low);
}

/// Of every 64 codes the first 32 in the low nibbles, the others in the high.
#[inline(always)]
pub(super) fn nibbles_by_64(codes: &[u8; 256], out: &mut [u8]) {
    for (pair, out) in codes.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = pair[i] & 15 | (pair[i + 32] & 15) << 4;
        }
    }
}

/// Of every 128 codes the low bit pairs of four quarters, the first lowest.
#[inline(always)]
pub(super) fn pairs_by_128(codes: &[u8; 256], out: &mut [u8]) {
    for (half, out) in codes.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = half[i] & 3 | (half[i + 32] & 3) << 2 | (half[i + 64] & 3) << 4 | (half[i + 96] & 3) << 6;
        }
    }
}

/// 128 bytes of nibbles, 64 of upper bit pairs. Each half of 128 codes is four quarters of 32: nibbles of quarters 0 and 2,
/// then 1 and 3; then the bit pairs of all four.
#[inline(always)]
pub(super) fn six_bits_by_128(codes: &[u8; 256], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(128);
    for ((half, low), high) in codes.chunks_exact(128).zip(low.chunks_exact_mut(64)).zip(high.chunks_exact_mut(32)) {
        for i in 0..32 {
            let q = [half[i], half[i + 32], half[i + 64], half[i + 96]];
            low[i] = q[0] & 15 | (q[2] & 15) << 4;
            low[i + 32] = q[1] & 15 | (q[3] & 15) << 4;
            high[i] = q[0] >> 4 | q[1] >> 4 << 2 | q[2] >> 4 << 4 | q[3] >> 4 << 6;
        }
    }
}

/// Eight scales and eight minima in 12 bytes: low six bits of the first four of each, then the nibbles of the
/// others, whose upper two bits fill the first eight bytes.
#[inline(always)]
pub(super) fn six_bit_pairs(s: &[u8; 8], m: &[u8; 8], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = s[j] | s[j + 4] >> 4 << 6;
        out[j + 4] = m[j] | m[j + 4] >> 4 << 6;
        out[j + 8] = s[j + 4] & 15 | (m[j + 4] & 15) << 4;
    }
}

/// Sixteen scales in 12 bytes: nibbles of the first eight low and of the others high, then upper bit pairs, those of scales
/// `j`, `j + 4`, `j + 8` and `j + 12` in one byte.
#[inline(always)]
pub(super) fn six_bits_of_16(s: &[u8; 16], out: &mut [u8]) {
    for j in 0..8 {
        out[j] = s[j] & 15 | (s[j + 8] & 15) << 4;
    }
    for j in 0..4 {
        out[8 + j] = (0..4).fold(0, |o, k| o | (s[4 * k + j] >> 4) << (2 * k));
    }
}
