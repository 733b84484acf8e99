//! Sub-blocks side by side, one in each vector lane, and how much their values count.

use std::hint::black_box;

/// One number for each of `S` sub-blocks.
pub(super) type Lanes<const S: usize> = [f32; S];
/// Value `i` of every sub-block, for each `i` below their length `L`.
pub(super) type Transposed<const S: usize, const L: usize> = [Lanes<S>; L];

#[inline(always)]
pub(super) fn lanes<const S: usize>(f: impl Fn(usize) -> f32) -> Lanes<S> {
    std::array::from_fn(f)
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
    std::array::from_fn(|i| lanes(|j| x[j * L + i]))
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
