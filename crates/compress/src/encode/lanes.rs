//! Sub-blocks side by side, one in each vector lane, and how much their values count.

use std::hint::black_box;

/// One number for each of `S` sub-blocks.
pub(super) type Lanes<const S: usize> = [f32; S];
/// Value `i` of every sub-block, for each `i` below their length `L`.
pub(super) type Transposed<const S: usize, const L: usize> = [Lanes<S>; L];

// Loops, not `array::from_fn`, `map` and `fold`: those are not always inlined, and then compiled for the narrowest vectors.

#[inline(always)]
pub(super) fn lanes<const S: usize>(f: impl Fn(usize) -> f32) -> Lanes<S> {
    let mut lanes = [0.0; S];
    for (j, lane) in lanes.iter_mut().enumerate() {
        *lane = f(j);
    }
    lanes
}

/// `f` of each.
#[inline(always)]
pub(super) fn each<A: Copy, B: Copy + Default, const N: usize>(a: &[A; N], f: impl Fn(A) -> B) -> [B; N] {
    let mut out = [B::default(); N];
    for (out, &a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
    out
}

/// Candidates that are tried side by side: one alone waits for its own sums. The last may be tried twice, which changes nothing.
pub(super) const AT_ONCE: usize = 2;

/// The same, handed over in memory. Vectorizers start from stores: without this LLVM takes lanes that are used one by one later
/// apart within the loop that makes them, which costs half of the speed.
#[inline(always)]
pub(super) fn together<T>(lanes: T) -> T {
    black_box(lanes)
}

/// `S · L` values, sub-block after sub-block.
#[inline(always)]
pub(super) fn transposed<const S: usize, const L: usize>(x: &[f32]) -> Transposed<S, L> {
    let mut out = [[0.0; S]; L];
    for (i, out) in out.iter_mut().enumerate() {
        *out = lanes(|j| x[j * L + i]);
    }
    out
}

/// `f` of the lanes of each value.
#[inline(always)]
pub(super) fn rows<const S: usize, const L: usize>(x: &Transposed<S, L>, f: impl Fn(&Lanes<S>) -> Lanes<S>) -> Transposed<S, L> {
    let mut out = [[0.0; S]; L];
    for (out, x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    out
}

/// How much the squared error of each value counts.
pub(super) trait Weights<const S: usize, const L: usize>: Copy {
    /// Weights of value `i` of every sub-block.
    fn at(self, i: usize) -> Lanes<S>;
}

/// All values count alike: products with these weights are exact, and compiled away.
#[derive(Clone, Copy)]
pub(super) struct Alike;

impl<const S: usize, const L: usize> Weights<S, L> for Alike {
    #[inline(always)]
    fn at(self, _: usize) -> Lanes<S> {
        [1.0; S]
    }
}

impl<const S: usize, const L: usize> Weights<S, L> for &Transposed<S, L> {
    #[inline(always)]
    fn at(self, i: usize) -> Lanes<S> {
        self[i]
    }
}
