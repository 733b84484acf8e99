//! Unsigned bytes times activations, in the way that is fastest for what the bytes can be.

use crate::simd::{Simd, fit_halves};

/// What the codes of a format can be.
#[derive(Clone, Copy)]
pub(super) enum Codes {
    /// At most this, which is at most 127.
    UpTo(u8),
    /// All bytes, of which 128 stands for zero.
    Less128,
}

/// A sum over some words of codes, each times a word of activations: opened, added to, closed.
#[derive(Clone, Copy)]
pub(super) struct Run {
    codes: Codes,
    /// Whether the sum is open all the time, or only while a word is added.
    whole: bool,
}

impl Codes {
    /// For sums over `words`.
    pub(super) const fn run(self, words: usize) -> Run {
        let whole = match self {
            Codes::UpTo(most) => words <= fit_halves(most),
            Codes::Less128 => true,
        };
        Run { codes: self, whole }
    }

    #[inline(always)]
    fn open<S: Simd>(self, sum: S::I) -> S::I {
        match self {
            Codes::UpTo(_) => S::open(sum),
            Codes::Less128 => S::open_less_128(sum),
        }
    }

    #[inline(always)]
    fn dot4<S: Simd>(self, open: S::I, codes: S::I, activations: i32) -> S::I {
        match self {
            Codes::UpTo(_) => S::dot4(open, codes, activations),
            Codes::Less128 => S::dot4_less_128(open, codes, activations),
        }
    }

    #[inline(always)]
    fn close<S: Simd>(self, open: S::I, sum: S::I) -> S::I {
        match self {
            Codes::UpTo(_) => S::close(open, sum),
            Codes::Less128 => open,
        }
    }
}

impl Run {
    /// Begins with `sum`: what the zero of all codes makes together with the activations.
    #[inline(always)]
    pub(super) fn open<S: Simd>(self, sum: S::I) -> S::I {
        if self.whole { self.codes.open::<S>(sum) } else { sum }
    }

    /// Adds to each lane the products of four codes with four activations.
    #[inline(always)]
    pub(super) fn add<S: Simd>(self, run: S::I, codes: S::I, activations: i32) -> S::I {
        if self.whole {
            return self.codes.dot4::<S>(run, codes, activations);
        }
        let open = self.codes.open::<S>(run);
        self.codes.close::<S>(self.codes.dot4::<S>(open, codes, activations), run)
    }

    /// The sum of what began with `sum`.
    #[inline(always)]
    pub(super) fn close<S: Simd>(self, run: S::I, sum: S::I) -> S::I {
        if self.whole { self.codes.close::<S>(run, sum) } else { run }
    }
}
