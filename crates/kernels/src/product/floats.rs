//! Float weights: each row's sum takes its columns in order, one multiplication and one addition each.

use super::Format;
use crate::simd::{LANES, Simd};

/// How a float type is stored and widened.
pub(super) trait Weight {
    const BYTES: usize;
    /// # Safety
    /// `p` must point to 16 readable weights.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

macro_rules! weights {
    ($($name:ident: $bytes:literal, $p:ident => $load:expr;)*) => {$(
        pub(super) struct $name;
        impl Weight for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>($p: *const u8) -> S::F {
                // SAFETY: the caller's promise.
                unsafe { $load }
            }
        }
    )*};
}

weights! {
    F32: 4, p => S::load(p.cast());
    F16: 2, p => S::load_f16(p);
    Bf16: 2, p => S::load_bf16(p);
}

/// A [`Weight`] as a [`Format`].
pub(super) struct Floats<W>(std::marker::PhantomData<W>);

impl<W: Weight> Format for Floats<W> {
    type Columns = f32;

    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const T: usize>(
        panels: [*const u8; P],
        cols: usize,
        tokens: [*const f32; T],
    ) -> [[S::F; T]; P] {
        let mut sums = [[S::splat(0.0); T]; P];
        for col in 0..cols {
            for p in 0..P {
                let at = panels[p].wrapping_add(col * W::BYTES * LANES);
                // SAFETY: within the panel.
                let w = unsafe { W::load::<S>(at) };
                for t in 0..T {
                    // SAFETY: a token has `cols` floats.
                    let x = unsafe { *tokens[t].add(col) };
                    sums[p][t] = S::fma(w, S::splat(x), sums[p][t]);
                }
            }
        }
        sums
    }
}
