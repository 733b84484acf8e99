//! Four bits of compressed-tensors, `x ≈ d·(q − z)` for a group of columns: `z` is 8, or chosen.
//!
//! Candidate scales give codes, a least-squares fit to the codes gives the scale, which is rounded to BF16 before its error counts.
//! Without a zero point the scale may be negative: eight codes then lie above zero and seven below.

use super::{Block, greatest, least, reciprocal, round_even};
use half::bf16;

/// Scale (f32), zero point if it has one, then nibbles in order.
pub(super) struct Group<const N: usize, const ZERO: bool> {
    d: f32,
    inverse: f32,
    zero: f32,
    codes: [u8; N],
}

impl<const N: usize, const B: usize, const ZERO: bool> Block<N, B> for Group<N, ZERO> {
    #[inline(always)]
    fn search(x: &[f32; N], w: Option<&[f32; N]>) -> Option<Self> {
        let range = Range::of(x);
        if ZERO { Self::best(x, w, range.with_zeros()) } else { Self::best(x, w, range.symmetric()) }
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        let q = code(v * self.inverse, self.zero);
        self.codes[i] = (q + self.zero) as u8;
        q * self.d
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; B]) {
        let (header, nibbles) = out.split_at_mut(B - N / 2);
        header[..4].copy_from_slice(&self.d.to_le_bytes());
        if ZERO {
            header[4] = self.zero as u8;
        }
        for (pair, o) in self.codes.as_chunks::<2>().0.iter().zip(nibbles) {
            *o = pair[0] | pair[1] << 4;
        }
    }
}

/// `range` in so many steps; nothing where there are none.
#[inline(always)]
fn part(range: f32, steps: f32) -> f32 {
    if steps > 0.0 { range / steps } else { 0.0 }
}

/// The largest code.
const MOST: f32 = 15.0;

/// What values lie between; 0 is among them.
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    #[inline(always)]
    fn of(x: &[f32]) -> Self {
        Self { low: x.iter().fold(0.0, |m, &v| least(m, v)), high: x.iter().fold(0.0, |m, &v| greatest(m, v)) }
    }

    /// Least scales at which nothing is cut off, of either sign, and 8.
    #[inline(always)]
    fn symmetric(&self) -> [(f32, f32); 2] {
        let &Self { low, high } = self;
        [(greatest(high / 7.0, -low / 8.0), 8.0), (-greatest(-low / 7.0, high / 8.0), 8.0)]
    }

    /// The ideal zero point and those beside it, and the least scales at which nothing is cut off.
    #[inline(always)]
    fn with_zeros(&self) -> [(f32, f32); 3] {
        let &Self { low, high } = self;
        let ideal = round_even(-low * reciprocal((high - low) / MOST));
        [0.0, -1.0, 1.0].map(|step| {
            let zero = greatest(least(ideal + step, MOST), 0.0);
            (greatest(part(high, MOST - zero), part(-low, zero)), zero)
        })
    }
}

impl<const N: usize, const ZERO: bool> Group<N, ZERO> {
    /// The best of scales from a little above those of `candidates`, each with a zero point, down to two thirds of them.
    /// `None` if codes exceed `f32`.
    #[inline(always)]
    fn best<const C: usize>(x: &[f32; N], w: Option<&[f32; N]>, candidates: [(f32, f32); C]) -> Option<Self> {
        let w = w.unwrap_or(&[1.0; N]);
        let mut best = (f32::MAX, 0.0, candidates[0].1);
        for (widest, zero) in candidates {
            for step in 0..STEPS {
                let scale = widest * (FROM - BY * step as f32);
                let d = to_bf16(fitted(x, w, scale, zero))?;
                let error = error(x, w, d, zero);
                if error < best.0 {
                    best = (error, d, zero);
                }
            }
        }
        let (_, d, zero) = best;
        Some(Self { d, inverse: reciprocal(d), zero, codes: [0; N] })
    }
}
const FROM: f32 = 1.02;
const BY: f32 = 0.02;
const STEPS: usize = 18;

/// The code nearest to `v`, less the zero point.
#[inline(always)]
fn code(v: f32, zero: f32) -> f32 {
    round_even(greatest(least(v, MOST - zero), -zero))
}

/// `None` if a code would stand for infinity.
#[inline(always)]
fn to_bf16(d: f32) -> Option<f32> {
    Some(bf16::from_f32(d).to_f32()).filter(|d| (d * MOST).is_finite())
}

/// Partial sums side by side, so that they fill a vector.
const LANES: usize = 16;

/// The scale of least squared error for the codes that `scale` gives.
#[inline(always)]
fn fitted<const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32, zero: f32) -> f32 {
    let inverse = reciprocal(scale);
    let (mut qx, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for j in 0..LANES {
            let q = code(x[j] * inverse, zero);
            qx[j] += w[j] * q * x[j];
            qq[j] += w[j] * q * q;
        }
    }
    let (qx, qq) = (sum(&qx), sum(&qq));
    if qq > 0.0 { qx / qq } else { 0.0 }
}

/// The squared error that is really made.
#[inline(always)]
fn error<const N: usize>(x: &[f32; N], w: &[f32; N], d: f32, zero: f32) -> f32 {
    let inverse = reciprocal(d);
    let mut sums = [0.0f32; LANES];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for j in 0..LANES {
            let e = code(x[j] * inverse, zero) * d - x[j];
            sums[j] += w[j] * (e * e);
        }
    }
    sum(&sums)
}

#[inline(always)]
fn sum(lanes: &[f32; LANES]) -> f32 {
    lanes.iter().sum()
}
