//! Operations on rows of activations. Their sums run in 16 interleaved lanes and one tree.

use crate::math::{self, exp_lanes, softcap_lanes};
use crate::simd::{Kernel, LANES, Simd};

/// Vector of `x` at `at`; lanes past its end hold `fill`.
#[inline(always)]
pub(crate) fn vector<S: Simd>(x: &[f32], at: usize, fill: f32) -> S::F {
    let x = &x[at..];
    if x.len() >= LANES {
        // SAFETY: sixteen floats follow.
        return unsafe { S::load(x.as_ptr()) };
    }
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    // SAFETY: sixteen floats.
    unsafe { S::load(lanes.as_ptr()) }
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
            let scale = S::splat(rms_scale::<S>(x, self.eps));
            for at in (0..width).step_by(LANES) {
                let x = S::mul(vector::<S>(x, at, 0.0), scale);
                write::<S>(out, at, S::mul(x, vector::<S>(self.weight, at, 0.0)));
            }
        }
    }
}

/// [`RmsNorm`] in place.
pub(crate) struct RmsNormInPlace<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for RmsNormInPlace<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.weight.len();
        for row in self.x.chunks_exact_mut(width) {
            let scale = S::splat(rms_scale::<S>(row, self.eps));
            for at in (0..width).step_by(LANES) {
                let x = S::mul(vector::<S>(row, at, 0.0), scale);
                write::<S>(row, at, S::mul(x, vector::<S>(self.weight, at, 0.0)));
            }
        }
    }
}

/// 1 / √(mean of x² + eps).
#[inline(always)]
fn rms_scale<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let mut squares = S::splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let x = vector::<S>(x, at, 0.0);
        squares = S::add(squares, S::mul(x, x));
    }
    1.0 / (S::sum(squares) / x.len() as f32 + eps).sqrt()
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
            for at in (0..row.len()).step_by(LANES) {
                let x = vector::<S>(row, at, f32::NEG_INFINITY);
                sum = S::add(sum, exp_lanes::<S>(S::sub(x, max)));
            }
            let log = S::splat(math::ln(f64::from(S::sum(sum))) as f32);
            for at in (0..row.len()).step_by(LANES) {
                let x = vector::<S>(row, at, 0.0);
                write::<S>(row, at, S::sub(S::sub(x, max), log));
            }
        }
    }
}

/// The largest element that is not NaN; −∞ if there is none.
#[inline(always)]
pub(crate) fn largest<S: Simd>(x: &[f32]) -> f32 {
    let mut max = S::splat(f32::NEG_INFINITY);
    for at in (0..x.len()).step_by(LANES) {
        max = S::max(vector::<S>(x, at, f32::NEG_INFINITY), max);
    }
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
            let gate = vector::<S>(self.gate, at, 0.0);
            let silu = S::div(gate, S::add(one, exp_lanes::<S>(S::mul(gate, S::splat(-1.0)))));
            write::<S>(self.gate, at, S::mul(silu, vector::<S>(self.up, at, 0.0)));
        }
    }
}

/// gate / (1 + e^−2u) · up into `gate`, where u = √(2/π) · (gate + 0.044715 · gate³).
pub(crate) struct Geglu<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Kernel for Geglu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let one = S::splat(1.0);
        for at in (0..self.gate.len()).step_by(LANES) {
            let gate = vector::<S>(self.gate, at, 0.0);
            let cube = S::mul(S::mul(gate, gate), gate);
            let inner = S::add(gate, S::mul(S::splat(0.044_715), cube));
            // −2 √(2/π)
            let power = exp_lanes::<S>(S::mul(S::splat(-1.595_769), inner));
            let gelu = S::div(gate, S::add(one, power));
            write::<S>(self.gate, at, S::mul(gelu, vector::<S>(self.up, at, 0.0)));
        }
    }
}

/// bound · tanh(x / bound), in place.
pub(crate) struct Softcap<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) bound: f32,
}

impl Kernel for Softcap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for at in (0..self.x.len()).step_by(LANES) {
            let x = softcap_lanes::<S>(vector::<S>(self.x, at, 0.0), self.bound);
            write::<S>(self.x, at, x);
        }
    }
}

/// x · factor, in place.
pub(crate) struct Scale<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) factor: f32,
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for at in (0..self.x.len()).step_by(LANES) {
            let x = S::mul(vector::<S>(self.x, at, 0.0), S::splat(self.factor));
            write::<S>(self.x, at, x);
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
            let sum = S::add(vector::<S>(self.x, at, 0.0), vector::<S>(self.y, at, 0.0));
            write::<S>(self.x, at, sum);
        }
    }
}

/// `x += weight · y`, of equal length.
pub(crate) struct AddScaled<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) y: &'a [f32],
    pub(crate) weight: f32,
}

impl Kernel for AddScaled<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let weight = S::splat(self.weight);
        for at in (0..self.x.len()).step_by(LANES) {
            let scaled = S::mul(weight, vector::<S>(self.y, at, 0.0));
            write::<S>(self.x, at, S::add(vector::<S>(self.x, at, 0.0), scaled));
        }
    }
}

/// 1 / (1 + e^−x) in place.
pub(crate) struct Sigmoid<'a>(pub(crate) &'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let one = S::splat(1.0);
        for at in (0..self.0.len()).step_by(LANES) {
            let x = vector::<S>(self.0, at, 0.0);
            write::<S>(self.0, at, S::div(one, S::add(one, exp_lanes::<S>(S::mul(x, S::splat(-1.0))))));
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
            let (x, y) = (vector::<S>(a, at, 0.0), vector::<S>(b, at, 0.0));
            let (cos, sin) = (vector::<S>(self.cos, at, 0.0), vector::<S>(self.sin, at, 0.0));
            write::<S>(a, at, S::sub(S::mul(x, cos), S::mul(y, sin)));
            write::<S>(b, at, S::add(S::mul(y, cos), S::mul(x, sin)));
        }
    }
}
