//! Codes with a scale and a minimum: Q2_K, Q4_K and Q5_K, and by importance also Q4_1 and Q5_1.
//!
//! Each sub-block is searched for the scale and minimum of least squared error: candidate inverse scales give codes,
//! a least-squares fit to the codes gives scale and minimum. In a super-block, `x ≈ d·s·q − dmin·m`, the shared `d` and
//! `dmin` then follow from the largest, and the integers around the nearest `s` and `m` are tried for the error that is
//! really made. All sub-blocks of a super-block are searched at once, one in each vector lane.

use super::lanes::{AT_ONCE, Alike, Lanes, Transposed, Weights, each, lanes, rows, together, transposed};
use super::{Block, byte, greatest, least, pack, reciprocal, round_even, to_f16, to_f16_outward};
use half::f16;

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 128 bytes of nibbles.
pub(super) struct Q4K(Super<8>);

impl Block<256, 144> for Q4K {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<32, 15, 63>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<32, 15>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<32, 15>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 144]) {
        let (header, nibbles) = out.split_at_mut(16);
        self.0.store_header(header);
        pack::nibbles_by_64(&self.0.codes, nibbles);
    }
}

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes of nibbles.
pub(super) struct Q5K(Super<8>);

impl Block<256, 176> for Q5K {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<32, 31, 63>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<32, 31>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<32, 31>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 176]) {
        let (header, rest) = out.split_at_mut(16);
        let (high, nibbles) = rest.split_at_mut(32);
        self.0.store_header(header);
        for (i, h) in high.iter_mut().enumerate() {
            *h = (0..8).fold(0, |h, sub| h | (self.0.codes[sub * 32 + i] >> 4) << sub);
        }
        pack::nibbles_by_64(&self.0.codes, nibbles);
    }
}

/// 16 bytes of a scale and a minimum each, 64 bytes of bit pairs, `d`, `dmin` (f16).
pub(super) struct Q2K(Super<16>);

impl Block<256, 84> for Q2K {
    #[inline(always)]
    fn search(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        Super::of::<16, 3, 15>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<16, 3>(i, v)
    }
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; 256]) {
        self.0.round_all::<16, 3>(x);
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 84]) {
        for (o, (s, m)) in out.iter_mut().zip(self.0.s.iter().zip(&self.0.m)) {
            *o = s | m << 4;
        }
        pack::pairs_by_128(&self.0.codes, &mut out[16..80]);
        pack::halves([self.0.d, self.0.dmin], &mut out[80..]);
    }
}

/// `d`, `m` (f16), 16 bytes of nibbles: `x ≈ d·q + m`.
pub(super) struct Q41(Single);

impl Block<32, 20> for Q41 {
    #[inline(always)]
    fn search(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        Single::of::<15>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<15>(i, v)
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 20]) {
        pack::halves([self.0.d, self.0.m], out);
        pack::nibbles(&self.0.codes, &mut out[4..]);
    }
}

/// `d`, `m` (f16), 32 fifth bits, 16 bytes of nibbles: `x ≈ d·q + m`.
pub(super) struct Q51(Single);

impl Block<32, 24> for Q51 {
    #[inline(always)]
    fn search(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        Single::of::<31>(x, w).map(Self)
    }
    #[inline(always)]
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0.round::<31>(i, v)
    }
    #[inline(always)]
    fn store(&self, out: &mut [u8; 24]) {
        pack::halves([self.0.d, self.0.m], out);
        pack::five_bits(&self.0.codes, &mut out[4..]);
    }
}

/// A block with a scale and a minimum of its own, which need not be below zero.
struct Single {
    d: f16,
    m: f16,
    codes: [u8; 32],
}

impl Single {
    /// Codes are 0 to `MAX`; `None` if scale or minimum exceeds `f16`.
    #[inline(always)]
    fn of<const MAX: u8>(x: &[f32; 32], w: Option<&[f32; 32]>) -> Option<Self> {
        let x = transposed::<1, 32>(x);
        let ([scale], [min]) = match w {
            None => search(&x, Alike, f32::from(MAX), false),
            Some(w) => search(&x, &transposed::<1, 32>(w), f32::from(MAX), false),
        };
        Some(Self { d: to_f16(scale)?, m: to_f16(-min)?, codes: [0; 32] })
    }

    #[inline(always)]
    fn round<const MAX: u8>(&mut self, i: usize, v: f32) -> f32 {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        let code = code(v - m, reciprocal(d), f32::from(MAX));
        self.codes[i] = byte(code);
        code * d + m
    }
}

/// A super-block of `S` sub-blocks.
struct Super<const S: usize> {
    d: f16,
    dmin: f16,
    /// Scales and minima in units of `d` and `dmin`.
    s: [u8; S],
    m: [u8; S],
    /// What they stand for, and the inverse of the scales.
    scale: Lanes<S>,
    min: Lanes<S>,
    inverse: Lanes<S>,
    codes: [u8; 256],
}

impl<const S: usize> Super<S> {
    /// Codes are 0 to `MAX`, scales and minima 0 to `TOP`; `None` if `d` or `dmin` exceeds `f16`.
    #[inline(always)]
    fn of<const L: usize, const MAX: u8, const TOP: u8>(x: &[f32; 256], w: Option<&[f32; 256]>) -> Option<Self> {
        let x = transposed::<S, L>(x);
        match w {
            None => Self::weighted::<L, MAX, TOP>(&x, Alike),
            Some(w) => Self::weighted::<L, MAX, TOP>(&x, &transposed(w)),
        }
    }

    #[inline(always)]
    fn weighted<const L: usize, const MAX: u8, const TOP: u8>(x: &Transposed<S, L>, w: impl Weights<S, L>) -> Option<Self> {
        let (max, top) = (f32::from(MAX), f32::from(TOP));
        let (scales, mins) = search(x, w, max, true);
        let (stored_d, stored_dmin) = (to_f16_outward(largest(&scales) / top)?, to_f16_outward(largest(&mins) / top)?);
        let (d, dmin) = (stored_d.to_f32(), stored_dmin.to_f32());
        let (s, m) = Shared { d, dmin, max, top }.best_integers(x, w, &scales, &mins);
        let (scale, min) = (each(&s, |s| d * s), each(&m, |m| dmin * m));
        Some(Self {
            d: stored_d,
            dmin: stored_dmin,
            s: each(&s, byte),
            m: each(&m, byte),
            scale,
            min,
            inverse: each(&scale, reciprocal),
            codes: [0; 256],
        })
    }

    #[inline(always)]
    fn round<const L: usize, const MAX: u8>(&mut self, i: usize, v: f32) -> f32 {
        let j = i / L;
        let code = code(v + self.min[j], self.inverse[j], f32::from(MAX));
        self.codes[i] = byte(code);
        self.scale[j] * code - self.min[j]
    }

    #[inline(always)]
    fn round_all<const L: usize, const MAX: u8>(&mut self, x: &[f32; 256]) {
        let lanes = self.min.iter().zip(&self.inverse);
        for ((x, codes), (&min, &inverse)) in x.as_chunks::<L>().0.iter().zip(self.codes.as_chunks_mut::<L>().0).zip(lanes) {
            *codes = each(x, |v| byte(code(v + min, inverse, f32::from(MAX))));
        }
    }
}

impl Super<8> {
    /// `d`, `dmin`, scales and minima in 16 bytes.
    #[inline(always)]
    fn store_header(&self, out: &mut [u8]) {
        pack::halves([self.d, self.dmin], out);
        pack::six_bit_pairs(&self.s, &self.m, &mut out[4..]);
    }
}

/// Scale and negated minimum of least squared error for every sub-block; `below_zero`: the minimum must not be above zero.
#[inline(always)]
fn search<const S: usize, const L: usize>(
    x: &Transposed<S, L>,
    w: impl Weights<S, L>,
    max: f32,
    below_zero: bool,
) -> (Lanes<S>, Lanes<S>) {
    let (start, end) = if below_zero { (0.0, f32::MIN) } else { (f32::MAX, f32::MIN) };
    let (mut low, mut high) = ([start; S], [end; S]);
    for v in x {
        low = lanes(|j| least(v[j], low[j]));
        high = lanes(|j| greatest(v[j], high[j]));
    }
    let range: Lanes<S> = lanes(|j| high[j] - low[j]);
    let unit = each(&range, reciprocal);
    // From here on in units of the range above the lowest value: 0 to 1.
    let y: Transposed<S, L> = rows(x, |v| lanes(|j| (v[j] - low[j]) * unit[j]));
    let mut sums = Sums { w: [0.0; S], y: [0.0; S], zero: lanes(|j| -low[j] * unit[j]), below_zero };
    for (i, y) in y.iter().enumerate() {
        let w = w.at(i);
        for j in 0..S {
            sums.w[j] += w[j];
            sums.y[j] += w[j] * y[j];
        }
    }

    let mut best = Fit { explained: [f32::MIN; S], q: [0.0; S], qq: [0.0; S], qy: [0.0; S] };
    let width = |step: usize| max + FIRST + STRIDE * step as f32;
    for step in (0..STEPS).step_by(AT_ONCE) {
        let fits = Fit::of::<L, AT_ONCE>(&y, w, std::array::from_fn(|k| width((step + k).min(STEPS - 1))), max, &sums);
        fits.iter().for_each(|fit| best.keep_better(fit));
    }
    let fitted: [(f32, f32); S] = std::array::from_fn(|j| best.solve(j, &sums, max));
    (lanes(|j| fitted[j].0 * range[j]), lanes(|j| if unit[j] > 0.0 { fitted[j].1 * range[j] } else { -low[j] }))
}
/// Candidates spread the range over `max + FIRST + STRIDE·step` codes.
const STEPS: usize = 21;
const FIRST: f32 = -1.0;
const STRIDE: f32 = 0.1;

/// Of the weights and of the weighted values; and where 0 lies in the values' units.
struct Sums<const S: usize> {
    w: Lanes<S>,
    y: Lanes<S>,
    zero: Lanes<S>,
    /// The fitted minimum must not lie above `zero`.
    below_zero: bool,
}

/// The codes `q` of one candidate: weighted sums of them, of their squares and of their products with the values.
#[derive(Clone, Copy)]
struct Fit<const S: usize> {
    q: Lanes<S>,
    qq: Lanes<S>,
    qy: Lanes<S>,
    /// How much of the sum of squares the least-squares fit to these codes takes away.
    explained: Lanes<S>,
}

impl<const S: usize> Fit<S> {
    /// Of `K` candidates.
    #[inline(always)]
    fn of<const L: usize, const K: usize>(
        y: &Transposed<S, L>,
        w: impl Weights<S, L>,
        widths: [f32; K],
        max: f32,
        sums: &Sums<S>,
    ) -> [Self; K] {
        let mut fits = [Self { q: [0.0; S], qq: [0.0; S], qy: [0.0; S], explained: [0.0; S] }; K];
        for (i, y) in y.iter().enumerate() {
            let w = w.at(i);
            for (fit, width) in fits.iter_mut().zip(widths) {
                for j in 0..S {
                    let code = round_even(least(y[j] * width, max));
                    let weighted = w[j] * code;
                    fit.q[j] += weighted;
                    fit.qq[j] += weighted * code;
                    fit.qy[j] += weighted * y[j];
                }
            }
        }
        let mut fits = together(fits);
        fits.iter_mut().for_each(|fit| fit.explain(sums));
        together(fits)
    }

    #[inline(always)]
    fn explain(&mut self, sums: &Sums<S>) {
        for j in 0..S {
            let (n, sum, zero) = (sums.w[j], sums.y[j], sums.zero[j]);
            let (free, det) = (self.qy[j] * n - sum * self.q[j], self.qq[j] * n - self.q[j] * self.q[j]);
            let offset = self.qq[j] * sum - self.q[j] * self.qy[j];
            let clamped = sums.below_zero & (offset > zero * det);
            let product = self.qy[j] - zero * self.q[j];
            let numerator = if clamped { product * product } else { free * self.qy[j] + offset * sum };
            let denominator = if clamped { self.qq[j] } else { det };
            let fixed = if clamped { (2.0 * sum - n * zero) * zero } else { 0.0 };
            self.explained[j] = if det > 0.0 { numerator / denominator + fixed } else { f32::MIN };
        }
    }

    #[inline(always)]
    fn keep_better(&mut self, other: &Self) {
        for j in 0..S {
            let better = other.explained[j] > self.explained[j];
            self.q[j] = if better { other.q[j] } else { self.q[j] };
            self.qq[j] = if better { other.qq[j] } else { self.qq[j] };
            self.qy[j] = if better { other.qy[j] } else { self.qy[j] };
            self.explained[j] = if better { other.explained[j] } else { self.explained[j] };
        }
    }

    /// Least-squares scale of lane `j` and its minimum, as a distance below 0. Equal codes leave the scale open: then
    /// the range is spread over all codes.
    #[inline(always)]
    fn solve(&self, j: usize, sums: &Sums<S>, max: f32) -> (f32, f32) {
        let (n, sum, zero) = (sums.w[j], sums.y[j], sums.zero[j]);
        let det = self.qq[j] * n - self.q[j] * self.q[j];
        if det <= 0.0 {
            return (1.0 / max, zero);
        }
        let offset = (self.qq[j] * sum - self.q[j] * self.qy[j]) / det;
        if sums.below_zero && offset > zero {
            return ((self.qy[j] - zero * self.q[j]) / self.qq[j], 0.0);
        }
        ((self.qy[j] * n - sum * self.q[j]) / det, zero - offset)
    }
}

/// The scales of a super-block as stored, the largest code and the largest integer for a scale or minimum.
struct Shared {
    d: f32,
    dmin: f32,
    max: f32,
    top: f32,
}

impl Shared {
    /// The scales and minima around the nearest that make the least squared error.
    #[inline(always)]
    fn best_integers<const S: usize, const L: usize>(
        &self,
        x: &Transposed<S, L>,
        w: impl Weights<S, L>,
        scales: &Lanes<S>,
        mins: &Lanes<S>,
    ) -> (Lanes<S>, Lanes<S>) {
        let (d, dmin) = (reciprocal(self.d), reciprocal(self.dmin));
        let nearest = (lanes(|j| self.integer(scales[j] * d)), lanes(|j| self.integer(mins[j] * dmin)));
        let mut best = (nearest.0, nearest.1, self.error(x, w, &nearest.0, &nearest.1));
        for (ds, dm) in NEIGHBOURS {
            let (s, m) = (lanes(|j| self.integer(nearest.0[j] + ds)), lanes(|j| self.integer(nearest.1[j] + dm)));
            let error = self.error(x, w, &s, &m);
            for j in 0..S {
                if error[j] < best.2[j] {
                    (best.0[j], best.1[j], best.2[j]) = (s[j], m[j], error[j]);
                }
            }
        }
        (best.0, best.1)
    }

    #[inline(always)]
    fn error<const S: usize, const L: usize>(
        &self,
        x: &Transposed<S, L>,
        w: impl Weights<S, L>,
        s: &Lanes<S>,
        m: &Lanes<S>,
    ) -> Lanes<S> {
        let scale = each(s, |s| self.d * s);
        let min = each(m, |m| self.dmin * m);
        let inverse = each(&scale, reciprocal);
        let mut error = [0.0; S];
        for (i, v) in x.iter().enumerate() {
            let w = w.at(i);
            for j in 0..S {
                let e = scale[j] * code(v[j] + min[j], inverse[j], self.max) - min[j] - v[j];
                error[j] += w[j] * (e * e);
            }
        }
        error
    }

    #[inline(always)]
    fn integer(&self, v: f32) -> f32 {
        round_even(greatest(least(v, self.top), 0.0))
    }
}
const NEIGHBOURS: [(f32, f32); 8] =
    [(-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (1.0, 0.0), (1.0, 1.0)];

#[inline(always)]
fn code(above_min: f32, inverse: f32, max: f32) -> f32 {
    round_even(greatest(least(above_min * inverse, max), 0.0))
}

#[inline(always)]
fn largest<const S: usize>(v: &Lanes<S>) -> f32 {
    let mut largest = 0.0;
    for &v in v {
        largest = greatest(v, largest);
    }
    largest
}
