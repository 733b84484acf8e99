//! Codes with a signed scale alone: Q3_K, Q6_K, IQ4_NL and IQ4_XS, and by importance also Q4_0 and Q5_0.
//!
//! Each sub-block is searched for the scale of least squared error: candidate inverse scales give codes, a
//! least-squares fit to the codes gives the scale. In a super-block, `x ≈ d·s·q`, the shared `d` follows from the
//! largest; then the integers around the nearest `s` are tried for the error that is really made.
//! All sub-blocks of a super-block are searched at once, one in each vector lane.

use super::lanes::{AT_ONCE, Alike, Lanes, Transposed, Weights, each, lanes, rows, together, transposed};
use super::{Block, byte, greatest, least, pack, reciprocal, round_even, to_f16, to_f16_outward};
use coffer_checkpoint::blocks::IQ4_VALUES;
use half::f16;

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, `d` (f16).
pub(super) struct Q6K(Super<16>);

impl Block<256, 210> for Q6K {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<16, Whole<32>, 128>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<16, Whole<32>>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<16, Whole<32>>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 210]) {
        pack::six_bits_by_128(&each(&self.0.codes, |q| byte(q + 32.0)), &mut out[..192]);
        for (o, s) in out[192..].iter_mut().zip(self.0.s) {
            *o = s as u8;
        }
        pack::halves([self.0.d], &mut out[208..]);
    }
}

/// 32 bytes of third bits, 64 bytes of bit pairs, 12 bytes of scales, `d` (f16).
pub(super) struct Q3K(Super<16>);

impl Block<256, 110> for Q3K {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<16, Whole<4>, 32>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<16, Whole<4>>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<16, Whole<4>>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 110]) {
        let codes = each(&self.0.codes, |q| byte(q + 4.0));
        let (high, rest) = out.split_at_mut(32);
        for (i, h) in high.iter_mut().enumerate() {
            *h = (0..8).fold(0, |h, group| h | (codes[group * 32 + i] >> 2) << group);
        }
        pack::pairs_by_128(&codes, &mut rest[..64]);
        pack::six_bits_of_16(&each(&self.0.s, |s| (s + 32) as u8), &mut rest[64..76]);
        pack::halves([self.0.d], &mut rest[76..]);
    }
}

/// `d` (f16), upper bit pairs of eight scales in 16 bits, their nibbles, 128 bytes of nibbles.
pub(super) struct Iq4Xs(Super<8>);

impl Block<256, 136> for Iq4Xs {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<32, Curve, 32>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<32, Curve>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<32, Curve>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 136]) {
        let s = each(&self.0.s, |s| (s + 32) as u8);
        let high = s.iter().enumerate().fold(0u16, |h, (i, s)| h | u16::from(s >> 4) << (2 * i));
        pack::halves([self.0.d], out);
        out[2..4].copy_from_slice(&high.to_le_bytes());
        for (i, o) in out[4..8].iter_mut().enumerate() {
            *o = s[2 * i] & 15 | (s[2 * i + 1] & 15) << 4;
        }
        for (q, out) in self.0.codes.as_chunks::<32>().0.iter().zip(out[8..].chunks_exact_mut(16)) {
            pack::nibbles(&each(q, Curve::index), out);
        }
    }
}

/// `d` (f16), 16 bytes of nibbles.
pub(super) struct Iq4Nl(Single);

impl Block<32, 18> for Iq4Nl {
    #[inline(always)]
    fn search(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        Single::of::<Curve>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<Curve>(i, v)
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 18]) {
        pack::halves([self.0.d], out);
        pack::nibbles(&each(&self.0.codes, Curve::index), &mut out[2..]);
    }
}

/// `d` (f16), 16 bytes of nibbles: `x ≈ d·(q − 8)`.
pub(super) struct Q40(Single);

impl Block<32, 18> for Q40 {
    #[inline(always)]
    fn search(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        Single::of::<Whole<8>>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<Whole<8>>(i, v)
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 18]) {
        pack::halves([self.0.d], out);
        pack::nibbles(&each(&self.0.codes, |q| byte(q + 8.0)), &mut out[2..]);
    }
}

/// `d` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·(q − 16)`.
pub(super) struct Q50(Single);

impl Block<32, 22> for Q50 {
    #[inline(always)]
    fn search(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        Single::of::<Whole<16>>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<Whole<16>>(i, v)
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 22]) {
        pack::halves([self.0.d], out);
        pack::five_bits(&each(&self.0.codes, |q| byte(q + 16.0)), &mut out[2..]);
    }
}

/// A block with a scale of its own.
struct Single {
    d: f16,
    codes: [f32; 32],
}

impl Single {
    /// `None` if the scale exceeds `f16`.
    #[inline(always)]
    fn of<C: Codes>(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        let x = transposed::<1, 32>(x);
        let [scale] = match w {
            None => search::<C, 1, 32>(&x, Alike),
            Some(w) => search::<C, 1, 32>(&x, &transposed(w)),
        };
        Some(Self { d: to_f16(scale)?, codes: [0.0; 32] })
    }

    #[inline(always)]
    fn round<C: Codes>(&mut self, i: usize, v: f32) -> f32 {
        let d = self.d.to_f32();
        self.codes[i] = C::nearest(v * reciprocal(d));
        self.codes[i] * d
    }
}

/// A super-block of `S` sub-blocks.
struct Super<const S: usize> {
    d: f16,
    /// Scales in units of `d`.
    s: [i8; S],
    /// What they stand for, and its inverse.
    scale: Lanes<S>,
    inverse: Lanes<S>,
    codes: [f32; 256],
}

impl<const S: usize> Super<S> {
    /// Scales are −`BOUND` to `BOUND` − 1; `None` if `d` exceeds `f16`.
    #[inline(always)]
    fn of<const L: usize, C: Codes, const BOUND: u8>(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        let x = transposed::<S, L>(x);
        match w {
            None => Self::weighted::<L, C>(&x, Alike, f32::from(BOUND)),
            Some(w) => Self::weighted::<L, C>(&x, &transposed(w), f32::from(BOUND)),
        }
    }

    #[inline(always)]
    fn weighted<const L: usize, C: Codes>(x: &Transposed<S, L>, w: impl Weights<S, L>, bound: f32) -> Option<Self> {
        let scales = search::<C, S, L>(x, w);
        let largest = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
        let d = to_f16_outward(largest / -bound)?;
        let s = best_integers::<C, S, L>(x, w, d.to_f32(), &scales, bound);
        let unit = d.to_f32();
        let scale = each(&s, |s| unit * s);
        Some(Self { d, s: each(&s, |s| s as i8), scale, inverse: each(&scale, reciprocal), codes: [0.0; 256] })
    }

    #[inline(always)]
    fn round<const L: usize, C: Codes>(&mut self, i: usize, v: f32) -> f32 {
        let j = i / L;
        self.codes[i] = C::nearest(v * self.inverse[j]);
        self.scale[j] * self.codes[i]
    }

    #[inline(always)]
    fn round_all<const L: usize, C: Codes>(&mut self, x: &[f32; 256]) {
        for ((x, codes), &inverse) in x.as_chunks::<L>().0.iter().zip(self.codes.as_chunks_mut::<L>().0).zip(&self.inverse) {
            *codes = each(x, |v| C::nearest(v * inverse));
        }
    }
}

/// The numbers that codes stand for.
trait Codes {
    /// Magnitude of the lowest, whose sign the extreme value of a sub-block gets.
    const LOWEST: f32;
    /// Candidates give the extreme value `−LOWEST · (FROM + step · BY)`, cut off at −`LOWEST`.
    const FROM: f32;
    const BY: f32;
    const STEPS: usize;
    fn nearest(v: f32) -> f32;
}

/// −`N` to `N` − 1.
struct Whole<const N: u8>;

impl<const N: u8> Codes for Whole<N> {
    const LOWEST: f32 = N as f32;
    // The extreme value loses up to 0.9 or one in eight, whichever is more.
    const FROM: f32 = if N > 7 { 1.0 - 0.9 / N as f32 } else { 0.7 };
    const BY: f32 = if N > 7 { 0.1 / N as f32 } else { 0.03 };
    const STEPS: usize = 19;

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        round_even(greatest(least(v, Self::LOWEST - 1.0), -Self::LOWEST))
    }
}

/// Those of IQ4_NL and IQ4_XS.
struct Curve;

impl Curve {
    /// The index of a value of the table.
    #[inline(always)]
    fn index(value: f32) -> u8 {
        IQ4_VALUES.iter().fold(0, |i, &v| i + u8::from(value > f32::from(v)))
    }
}

impl Codes for Curve {
    const LOWEST: f32 = 127.0;
    const FROM: f32 = 0.88;
    const BY: f32 = 0.012;
    const STEPS: usize = 19;

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        let mut nearest = f32::from(IQ4_VALUES[0]);
        for pair in IQ4_VALUES.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            nearest = if v > (low + high) * 0.5 { high } else { nearest };
        }
        nearest
    }
}

/// Scale of least squared error for every sub-block.
#[inline(always)]
fn search<C: Codes, const S: usize, const L: usize>(x: &Transposed<S, L>, w: impl Weights<S, L>) -> Lanes<S> {
    let mut extreme = [0.0f32; S];
    for v in x {
        extreme = lanes(|j| if v[j].abs() > extreme[j].abs() { v[j] } else { extreme[j] });
    }
    let unit = each(&extreme, reciprocal);
    // From here on in units of the extreme value: −1 to 1.
    let y: Transposed<S, L> = rows(x, |v| lanes(|j| v[j] * unit[j]));
    // The sums of the best candidate, and how much of the squares they explain.
    let mut best = ([-1.0; S], [C::LOWEST; S], [f32::MIN; S]);
    let width = |step: usize| -C::LOWEST * (C::FROM + C::BY * step as f32);
    for step in (0..C::STEPS).step_by(AT_ONCE) {
        let widths = std::array::from_fn(|k| width((step + k).min(C::STEPS - 1)));
        for (qy, qq) in together(sums::<C, S, L, AT_ONCE>(&y, w, widths)) {
            for j in 0..S {
                let qq = greatest(qq[j], SMALL);
                let explained = qy[j] * qy[j] / qq;
                let better = explained > best.2[j];
                best.0[j] = if better { qy[j] } else { best.0[j] };
                best.1[j] = if better { qq } else { best.1[j] };
                best.2[j] = if better { explained } else { best.2[j] };
            }
        }
    }
    lanes(|j| best.0[j] / best.1[j] * extreme[j])
}
/// Less than any sum of squared codes that is not 0, times the least weight.
const SMALL: f32 = 1e-8;

/// Weighted sums of products of codes and values, and of squared codes, for `K` candidates.
#[inline(always)]
fn sums<C: Codes, const S: usize, const L: usize, const K: usize>(
    y: &Transposed<S, L>,
    w: impl Weights<S, L>,
    widths: [f32; K],
) -> [(Lanes<S>, Lanes<S>); K] {
    let mut sums = [([0.0; S], [0.0; S]); K];
    for (i, v) in y.iter().enumerate() {
        let w = w.at(i);
        for ((qy, qq), width) in sums.iter_mut().zip(widths) {
            for j in 0..S {
                let code = C::nearest(v[j] * width);
                let weighted = w[j] * code;
                qy[j] += weighted * v[j];
                qq[j] += weighted * code;
            }
        }
    }
    sums
}

/// The scales around the nearest that make the least squared error.
#[inline(always)]
fn best_integers<C: Codes, const S: usize, const L: usize>(
    x: &Transposed<S, L>,
    w: impl Weights<S, L>,
    d: f32,
    scales: &Lanes<S>,
    bound: f32,
) -> Lanes<S> {
    let integer = |v: f32| round_even(greatest(least(v, bound - 1.0), -bound));
    let inverse = reciprocal(d);
    let nearest: Lanes<S> = lanes(|j| integer(scales[j] * inverse));
    let mut best = (nearest, error::<C, S, L>(x, w, d, &nearest));
    for ds in [-1.0, 1.0] {
        let s: Lanes<S> = lanes(|j| integer(nearest[j] + ds));
        let error = error::<C, S, L>(x, w, d, &s);
        for j in 0..S {
            let better = error[j] < best.1[j];
            best.0[j] = if better { s[j] } else { best.0[j] };
            best.1[j] = if better { error[j] } else { best.1[j] };
        }
    }
    best.0
}

#[inline(always)]
fn error<C: Codes, const S: usize, const L: usize>(
    x: &Transposed<S, L>,
    w: impl Weights<S, L>,
    d: f32,
    s: &Lanes<S>,
) -> Lanes<S> {
    let scale = each(s, |s| d * s);
    let inverse = each(&scale, reciprocal);
    let mut error = [0.0; S];
    for (i, v) in x.iter().enumerate() {
        let w = w.at(i);
        for j in 0..S {
            let e = scale[j] * C::nearest(v[j] * inverse[j]) - v[j];
            error[j] += w[j] * (e * e);
        }
    }
    error
}
