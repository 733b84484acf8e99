//! Super-blocks of 16 × 16 with a signed 8-bit scale each: Q6_K. `x ≈ d·s·(q − 32)`.
//!
//! Each sub-block is searched for the scale of least squared error: candidate inverse scales give codes, a
//! least-squares fit to the codes gives the scale. The shared `d` follows from the largest; then the 8-bit scales
//! around the nearest are tried for the error that is really made.
//! All sixteen sub-blocks are searched at once, one in each vector lane.

use super::{Overflow, each_block, greatest, least, reciprocal, round_even, to_f16_outward};

const SUBS: usize = 16;
const LEN: usize = 16;

/// One number for each sub-block.
type Lanes = [f32; SUBS];
/// Value `i` of every sub-block side by side.
type Transposed = [Lanes; LEN];

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, `d` (f16).
pub(super) fn q6_k(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<256, 210>(values, out, |x, out| {
        let x: Transposed = std::array::from_fn(|i| lanes(|j| x[j * LEN + i]));
        let scales = search(&x);
        let largest = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
        let stored = to_f16_outward(largest / -128.0)?;
        let d = stored.to_f32();
        let s = best_eight_bits(&x, d, &scales);

        let (codes, rest) = out.split_at_mut(192);
        pack_six_bits(&codes_of(&x, d, &s), codes);
        for (o, s) in rest.iter_mut().zip(s) {
            *o = s as i8 as u8;
        }
        rest[SUBS..].copy_from_slice(&stored.to_le_bytes());
        Some(())
    })
}

/// Scale of least squared error for every sub-block; the value of largest magnitude gets a negative code.
fn search(x: &Transposed) -> Lanes {
    let extreme = x.iter().fold([0.0f32; SUBS], |m, v| lanes(|j| if v[j].abs() > m[j].abs() { v[j] } else { m[j] }));
    let unit = extreme.map(reciprocal);
    // From here on in units of the extreme value: −1 to 1.
    let y: Transposed = std::array::from_fn(|i| lanes(|j| x[i][j] * unit[j]));
    let mut best = (lanes(|_| -1.0 / 32.0), [f32::MIN; SUBS]);
    for step in 0..STEPS {
        let width = -(32.0 + FIRST + STRIDE * step as f32);
        let (qy, qq) = sums(&y, width);
        for j in 0..SUBS {
            let explained = qy[j] * qy[j] / greatest(qq[j], 1.0);
            let better = explained > best.1[j];
            best.0[j] = if better { qy[j] / greatest(qq[j], 1.0) } else { best.0[j] };
            best.1[j] = if better { explained } else { best.1[j] };
        }
    }
    lanes(|j| best.0[j] * extreme[j])
}
/// Candidates give the extreme value the code `−(32 + FIRST + STRIDE·step)`, cut off at −32.
const STEPS: usize = 19;
const FIRST: f32 = -0.9;
const STRIDE: f32 = 0.1;

/// Sums of products of codes and values, and of squared codes.
fn sums(y: &Transposed, width: f32) -> (Lanes, Lanes) {
    let (mut qy, mut qq) = ([0.0; SUBS], [0.0; SUBS]);
    for v in y {
        for j in 0..SUBS {
            let code = code(v[j], width);
            qy[j] += code * v[j];
            qq[j] += code * code;
        }
    }
    (qy, qq)
}

/// The 8-bit scales around the nearest that make the least squared error.
fn best_eight_bits(x: &Transposed, d: f32, scales: &Lanes) -> Lanes {
    let inverse = reciprocal(d);
    let nearest = lanes(|j| eight_bits(scales[j] * inverse));
    let mut best = (nearest, error(x, d, &nearest));
    for ds in [-1.0, 1.0] {
        let s = lanes(|j| eight_bits(nearest[j] + ds));
        let error = error(x, d, &s);
        for j in 0..SUBS {
            let better = error[j] < best.1[j];
            best.0[j] = if better { s[j] } else { best.0[j] };
            best.1[j] = if better { error[j] } else { best.1[j] };
        }
    }
    best.0
}

fn error(x: &Transposed, d: f32, s: &Lanes) -> Lanes {
    let scale = s.map(|s| d * s);
    let inverse = scale.map(reciprocal);
    let mut error = [0.0; SUBS];
    for v in x {
        for j in 0..SUBS {
            let e = scale[j] * code(v[j], inverse[j]) - v[j];
            error[j] += e * e;
        }
    }
    error
}

/// Codes 0 to 63 of all values, sub-block after sub-block.
fn codes_of(x: &Transposed, d: f32, s: &Lanes) -> [u8; 256] {
    let inverse = s.map(|s| reciprocal(d * s));
    std::array::from_fn(|i| {
        let j = i / LEN;
        (code(x[i % LEN][j], inverse[j]) + 32.0) as u8
    })
}

fn code(v: f32, inverse: f32) -> f32 {
    round_even(greatest(least(v * inverse, 31.0), -32.0))
}

fn eight_bits(v: f32) -> f32 {
    round_even(greatest(least(v, 127.0), -128.0))
}

fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

/// Each half of 128 values is four quarters of 32: nibbles of quarters 0 and 2, then 1 and 3, then the bit pairs of all four.
fn pack_six_bits(codes: &[u8; 256], out: &mut [u8]) {
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
