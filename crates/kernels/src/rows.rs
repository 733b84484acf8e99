//! Operations on rows of activations. Their sums run in 16 interleaved lanes and one tree.

use crate::math::{self, exp_lanes};
use crate::simd::{Kernel, LANES, Simd};

/// Calls `f` with the vectors of `x` in order; lanes past its end hold `fill`.
#[inline(always)]
pub(crate) fn vectors<S: Simd>(x: &[f32], fill: f32, mut f: impl FnMut(usize, S::F)) {
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: sixteen floats follow.
        f(at, unsafe { S::load(x[at..].as_ptr()) });
    }
    if whole < x.len() {
        let mut lanes = [fill; LANES];
        lanes[..x.len() - whole].copy_from_slice(&x[whole..]);
        // SAFETY: sixteen floats.
        f(whole, unsafe { S::load(lanes.as_ptr()) });
    }
}

/// Writes canonical lanes into `out` from `at` on, as many as fit.
#[inline(always)]
pub(crate) fn write<S: Simd>(out: &mut [f32], at: usize, x: S::F) {
    let x = S::canon(x);
    if out.len() - at >= LANES {
        // SAFETY: sixteen floats follow.
        return unsafe { S::store(out[at..].as_mut_ptr(), x) };
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: sixteen floats.
    unsafe { S::store(lanes.as_mut_ptr(), x) };
    let tail = &mut out[at..];
    tail.copy_from_slice(&lanes[..tail.len()]);
}

/// Vector of `x` at `at`; lanes past its end are zero.
#[inline(always)]
fn vector<S: Simd>(x: &[f32], at: usize) -> S::F {
    let mut lanes = [0.0; LANES];
    let x = &x[at..];
    if x.len() >= LANES {
        // SAFETY: sixteen floats follow.
        return unsafe { S::load(x.as_ptr()) };
    }
    lanes[..x.len()].copy_from_slice(x);
    // SAFETY: sixteen floats.
    unsafe { S::load(lanes.as_ptr()) }
}

/// x / √(mean of x² + eps) · weight, each row of `x`.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mut squares = S::splat(0.0);
            vectors::<S>(x, 0.0, |_, x| squares = S::add(squares, S::mul(x, x)));
            let scale = S::splat(1.0 / (S::sum(squares) / width as f32 + self.eps).sqrt());
            vectors::<S>(x, 0.0, |at, x| {
                write::<S>(out, at, S::mul(S::mul(x, scale), vector::<S>(self.weight, at)));
            });
        }
    }
}

/// x − max − ln Σ e^(x − max), each row in place.
pub(crate) struct LogSoftmax<'a> {
    pub(crate) rows: &'a mut [f32],
    pub(crate) width: usize,
}

impl Kernel for LogSoftmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for row in self.rows.chunks_exact_mut(self.width) {
            let max = S::splat(largest::<S>(row));
            let mut sum = S::splat(0.0);
            vectors::<S>(row, f32::NEG_INFINITY, |_, x| sum = S::add(sum, exp_lanes::<S>(S::sub(x, max))));
            let log = S::splat(math::ln(f64::from(S::sum(sum))) as f32);
            for at in (0..row.len()).step_by(LANES) {
                let x = vector::<S>(row, at);
                write::<S>(row, at, S::sub(S::sub(x, max), log));
            }
        }
    }
}

/// The largest element that is not NaN; −∞ if there is none.
#[inline(always)]
pub(crate) fn largest<S: Simd>(x: &[f32]) -> f32 {
    let mut max = S::splat(f32::NEG_INFINITY);
    vectors::<S>(x, f32::NEG_INFINITY, |_, x| max = S::max(x, max));
    S::largest(max)
}

/// gate / (1 + e^−gate) · up into `gate`.
pub(crate) struct Swiglu<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Kernel for Swiglu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let one = S::splat(1.0);
        for at in (0..self.gate.len()).step_by(LANES) {
            let gate = vector::<S>(self.gate, at);
            let silu = S::div(gate, S::add(one, exp_lanes::<S>(S::mul(gate, S::splat(-1.0)))));
            write::<S>(self.gate, at, S::mul(silu, vector::<S>(self.up, at)));
        }
    }
}

/// `x += y`, of equal length.
pub(crate) struct Add<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) y: &'a [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for at in (0..self.x.len()).step_by(LANES) {
            let sum = S::add(vector::<S>(self.x, at), vector::<S>(self.y, at));
            write::<S>(self.x, at, sum);
        }
    }
}

/// Rotates the halves (a, b) of a head by an angle for each pair: (a·cos − b·sin, b·cos + a·sin).
pub(crate) struct Rotate<'a> {
    pub(crate) head: &'a mut [f32],
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (a, b) = self.head.split_at_mut(self.cos.len());
        for at in (0..a.len()).step_by(LANES) {
            let (x, y) = (vector::<S>(a, at), vector::<S>(b, at));
            let (cos, sin) = (vector::<S>(self.cos, at), vector::<S>(self.sin, at));
            write::<S>(a, at, S::sub(S::mul(x, cos), S::mul(y, sin)));
            write::<S>(b, at, S::add(S::mul(y, cos), S::mul(x, sin)));
        }
    }
}
