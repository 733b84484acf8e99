//! Super-blocks of 8 × 32 with a scale and a minimum each: Q4_K and Q5_K. `x ≈ d·s·q − dmin·m`, `s` and `m` in 6 bits.
//!
//! Each sub-block is searched for the scale and minimum of least squared error: candidate inverse scales give codes,
//! a least-squares fit to the codes gives scale and minimum. The shared `d` and `dmin` then follow from the largest,
//! and the 6-bit values around the nearest are tried for the error that is really made.
//! All eight sub-blocks are searched at once, one in each vector lane.

use super::{Overflow, each_block, greatest, least, reciprocal, round_even, to_f16_outward};

const SUBS: usize = 8;
const LEN: usize = 32;

/// One number for each sub-block.
type Lanes = [f32; SUBS];
/// Value `i` of every sub-block side by side.
type Transposed = [Lanes; LEN];

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 128 bytes of nibbles.
pub(super) fn q4_k(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<256, 144>(values, out, |x, out| {
        let (header, nibbles) = out.split_at_mut(16);
        let codes = super_block::<15>(x, header)?;
        pack_nibbles(&codes, nibbles);
        Some(())
    })
}

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes of nibbles.
pub(super) fn q5_k(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    each_block::<256, 176>(values, out, |x, out| {
        let (header, rest) = out.split_at_mut(16);
        let (high, nibbles) = rest.split_at_mut(32);
        let codes = super_block::<31>(x, header)?;
        for (i, h) in high.iter_mut().enumerate() {
            *h = (0..SUBS).fold(0, |h, sub| h | (codes[sub * LEN + i] >> 4) << sub);
        }
        pack_nibbles(&codes, nibbles);
        Some(())
    })
}

/// Fills the 16 bytes of header and returns the codes, 0 to `MAX`; `None` if a scale exceeds `f16`.
fn super_block<const MAX: u8>(x: &[f32; 256], header: &mut [u8]) -> Option<[u8; 256]> {
    let max = f32::from(MAX);
    let x: Transposed = std::array::from_fn(|i| std::array::from_fn(|sub| x[sub * LEN + i]));
    let (scales, mins) = search(&x, max);
    let d = to_f16_outward(largest(&scales) / 63.0)?;
    let dmin = to_f16_outward(largest(&mins) / 63.0)?;
    let shared = Shared { d: d.to_f32(), dmin: dmin.to_f32(), max };
    let (s, m) = shared.best_six_bits(&x, &scales, &mins);

    header[..2].copy_from_slice(&d.to_le_bytes());
    header[2..4].copy_from_slice(&dmin.to_le_bytes());
    pack_six_bits(&s.map(|v| v as u8), &m.map(|v| v as u8), &mut header[4..]);
    Some(shared.codes(&x, &s, &m))
}

/// Scale and negated minimum (0 or more) of least squared error for every sub-block.
fn search(x: &Transposed, max: f32) -> (Lanes, Lanes) {
    let low = x.iter().fold([0.0; SUBS], |m, v| lanes(|j| least(v[j], m[j])));
    let high = x.iter().fold([f32::MIN; SUBS], |m, v| lanes(|j| greatest(v[j], m[j])));
    let range = lanes(|j| high[j] - low[j]);
    let unit = range.map(reciprocal);
    // From here on in units of the range above the lowest value: 0 to 1.
    let y: Transposed = std::array::from_fn(|i| lanes(|j| (x[i][j] - low[j]) * unit[j]));
    let sum = y.iter().fold([0.0; SUBS], |s, v| lanes(|j| s[j] + v[j]));
    let zero = lanes(|j| -low[j] * unit[j]);

    let mut best = Fit { explained: [f32::MIN; SUBS], ..Fit::default() };
    for step in 0..STEPS {
        best.keep_better(&Fit::new(&y, max + FIRST + STRIDE * step as f32, max, &sum, &zero));
    }
    let fitted: [(f32, f32); SUBS] = std::array::from_fn(|j| best.solve(j, sum[j], zero[j], max));
    (lanes(|j| fitted[j].0 * range[j]), lanes(|j| if unit[j] > 0.0 { fitted[j].1 * range[j] } else { -low[j] }))
}
/// Candidates spread the range over `max + FIRST + STRIDE·step` codes.
const STEPS: usize = 21;
const FIRST: f32 = -1.0;
const STRIDE: f32 = 0.1;

/// The codes `q` of one candidate: their sum, their squares, their products with the values.
#[derive(Clone, Copy, Default)]
struct Fit {
    q: Lanes,
    qq: Lanes,
    qy: Lanes,
    /// How much of the sum of squares the least-squares fit to these codes takes away.
    explained: Lanes,
}

impl Fit {
    /// `zero` is where 0 lies in `y`'s units: the fitted minimum must not lie above it.
    fn new(y: &Transposed, width: f32, max: f32, sum: &Lanes, zero: &Lanes) -> Self {
        let mut fit = Self::default();
        for v in y {
            for (j, &v) in v.iter().enumerate() {
                let code = round_even(least(v * width, max));
                fit.q[j] += code;
                fit.qq[j] += code * code;
                fit.qy[j] += code * v;
            }
        }
        for j in 0..SUBS {
            let (free, det) = (fit.qy[j] * N - sum[j] * fit.q[j], fit.qq[j] * N - fit.q[j] * fit.q[j]);
            let offset = fit.qq[j] * sum[j] - fit.q[j] * fit.qy[j];
            let clamped = offset > zero[j] * det;
            let product = fit.qy[j] - zero[j] * fit.q[j];
            let numerator = if clamped { product * product } else { free * fit.qy[j] + offset * sum[j] };
            let denominator = if clamped { fit.qq[j] } else { det };
            let fixed = if clamped { (2.0 * sum[j] - N * zero[j]) * zero[j] } else { 0.0 };
            fit.explained[j] = if det > 0.0 { numerator / denominator + fixed } else { f32::MIN };
        }
        fit
    }

    fn keep_better(&mut self, other: &Self) {
        for j in 0..SUBS {
            let better = other.explained[j] > self.explained[j];
            self.q[j] = if better { other.q[j] } else { self.q[j] };
            self.qq[j] = if better { other.qq[j] } else { self.qq[j] };
            self.qy[j] = if better { other.qy[j] } else { self.qy[j] };
            self.explained[j] = if better { other.explained[j] } else { self.explained[j] };
        }
    }

    /// Least-squares scale of lane `j` and its minimum, as a distance below 0. Equal codes leave the scale open: then
    /// the range is spread over all codes.
    fn solve(&self, j: usize, sum: f32, zero: f32, max: f32) -> (f32, f32) {
        let det = self.qq[j] * N - self.q[j] * self.q[j];
        if det <= 0.0 {
            return (1.0 / max, zero);
        }
        let offset = (self.qq[j] * sum - self.q[j] * self.qy[j]) / det;
        if offset > zero {
            return ((self.qy[j] - zero * self.q[j]) / self.qq[j], 0.0);
        }
        ((self.qy[j] * N - sum * self.q[j]) / det, zero - offset)
    }
}
/// Values of a sub-block, as a number.
const N: f32 = LEN as f32;

/// The scales of a super-block as stored, and the largest code.
struct Shared {
    d: f32,
    dmin: f32,
    max: f32,
}

impl Shared {
    /// The 6-bit scales and minima around the nearest that make the least squared error.
    fn best_six_bits(&self, x: &Transposed, scales: &Lanes, mins: &Lanes) -> (Lanes, Lanes) {
        let (d, dmin) = (reciprocal(self.d), reciprocal(self.dmin));
        let nearest = (lanes(|j| six_bits(scales[j] * d)), lanes(|j| six_bits(mins[j] * dmin)));
        let mut best = (nearest.0, nearest.1, self.error(x, &nearest.0, &nearest.1));
        for (ds, dm) in NEIGHBOURS {
            let (s, m) = (lanes(|j| six_bits(nearest.0[j] + ds)), lanes(|j| six_bits(nearest.1[j] + dm)));
            let error = self.error(x, &s, &m);
            for j in 0..SUBS {
                if error[j] < best.2[j] {
                    (best.0[j], best.1[j], best.2[j]) = (s[j], m[j], error[j]);
                }
            }
        }
        (best.0, best.1)
    }

    fn error(&self, x: &Transposed, s: &Lanes, m: &Lanes) -> Lanes {
        let scale = s.map(|s| self.d * s);
        let min = m.map(|m| self.dmin * m);
        let inverse = scale.map(reciprocal);
        let mut error = [0.0; SUBS];
        for v in x {
            for j in 0..SUBS {
                let e = scale[j] * self.code(v[j] + min[j], inverse[j]) - min[j] - v[j];
                error[j] += e * e;
            }
        }
        error
    }

    fn codes(&self, x: &Transposed, s: &Lanes, m: &Lanes) -> [u8; 256] {
        let inverse = s.map(|s| reciprocal(self.d * s));
        std::array::from_fn(|i| {
            let j = i / LEN;
            self.code(x[i % LEN][j] + self.dmin * m[j], inverse[j]) as u8
        })
    }

    fn code(&self, above_min: f32, inverse: f32) -> f32 {
        round_even(greatest(least(above_min * inverse, self.max), 0.0))
    }
}
const NEIGHBOURS: [(f32, f32); 8] =
    [(-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (1.0, 0.0), (1.0, 1.0)];

fn six_bits(v: f32) -> f32 {
    round_even(greatest(least(v, 63.0), 0.0))
}

fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

fn largest(v: &Lanes) -> f32 {
    v.iter().fold(0.0, |m, &v| greatest(v, m))
}

/// Eight scales and eight minima in 12 bytes: low six bits of the first four of each, then the nibbles of the
/// others, whose upper two bits fill the first eight bytes.
fn pack_six_bits(s: &[u8; SUBS], m: &[u8; SUBS], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = s[j] | s[j + 4] >> 4 << 6;
        out[j + 4] = m[j] | m[j + 4] >> 4 << 6;
        out[j + 8] = s[j + 4] & 15 | (m[j + 4] & 15) << 4;
    }
}

/// Sub-blocks in pairs: the even one in the low nibbles, the odd one in the high.
fn pack_nibbles(codes: &[u8; 256], out: &mut [u8]) {
    for (pair, out) in codes.chunks_exact(2 * LEN).zip(out.chunks_exact_mut(LEN)) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = pair[i] & 15 | (pair[i + LEN] & 15) << 4;
        }
    }
}
