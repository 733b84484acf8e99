//! Sixteen lanes of 32 bits, the alphabet in which every kernel is written once.
//!
//! [`Scalar`] spells out what each letter means; the SIMD versions must equal it to the bit (a NaN's payload apart:
//! kernels end with [`Simd::canon`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) use scalar::Scalar;

use crate::Isa;

/// Lanes of a vector, rows of a panel, interleaved sums of a reduction.
pub(crate) const LANES: usize = 16;

/// Operations on sixteen lanes. The implementor is a token that its instructions may run here: `dispatch` alone hands it out.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32, also sixty-four bytes.
    type I: Copy;
    /// Whether there are registers enough for a wide tile of a product.
    const WIDE: bool;
    /// Whether a lone token reads four panels at a time: where memory is what it waits for.
    const FOUR_RUNS: bool;

    fn splat(x: f32) -> Self::F;
    /// # Safety
    /// `p` must point to 16 readable floats; any alignment will do, here and below.
    unsafe fn load(p: *const f32) -> Self::F;
    /// # Safety
    /// `p` must point to 16 writable floats.
    unsafe fn store(p: *mut f32, x: Self::F);
    /// # Safety
    /// `p` must point to 16 readable f16.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// # Safety
    /// `p` must point to 16 readable bf16.
    unsafe fn load_bf16(p: *const u8) -> Self::F;
    fn add(a: Self::F, b: Self::F) -> Self::F;
    fn sub(a: Self::F, b: Self::F) -> Self::F;
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: the second operand if either is NaN.
    fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: the second operand if either is NaN.
    fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Every NaN becomes the canonical one, 0x7fc00000.
    fn canon(x: Self::F) -> Self::F;
    /// The fixed tree: lane l takes lane l+8, then l+4, l+2, l+1.
    fn sum(x: Self::F) -> f32;
    /// The largest lane that is not NaN; −∞ if there is none.
    fn largest(x: Self::F) -> f32;
    /// Conversion to the nearest f32, ties to even.
    fn to_f(x: Self::I) -> Self::F;
    fn bits(x: Self::F) -> Self::I;
    fn from_bits(x: Self::I) -> Self::F;

    fn splat_i(x: i32) -> Self::I;
    /// # Safety
    /// `p` must point to 64 readable bytes.
    unsafe fn load_i(p: *const u8) -> Self::I;
    /// # Safety
    /// `p` must point to 16 readable bytes.
    unsafe fn load_i8(p: *const i8) -> Self::I;
    fn add_i(a: Self::I, b: Self::I) -> Self::I;
    fn mul_i(a: Self::I, b: Self::I) -> Self::I;
    /// `x`, which is computed before anything is read that the source reads later: left alone, the compiler puts sums off, and has to keep in
    /// memory what they are made of.
    #[inline(always)]
    fn settled(x: Self::I) -> Self::I {
        x
    }
    fn and(a: Self::I, b: Self::I) -> Self::I;
    fn or(a: Self::I, b: Self::I) -> Self::I;
    fn shl(x: Self::I, n: u32) -> Self::I;
    /// Shifts zeros in.
    fn shr(x: Self::I, n: u32) -> Self::I;
    /// Shifts the sign in.
    fn sar(x: Self::I, n: u32) -> Self::I;
    /// `sum` in the form that [`dot4`](Self::dot4) adds to, until `close` with the same `sum`: it can be two halves of 16 bits in each lane,
    /// which hold [`fit_halves`].
    #[inline(always)]
    fn open(sum: Self::I) -> Self::I {
        sum
    }
    /// Adds to each lane the products of its four unsigned bytes, at most 127, with the four signed bytes of `s`, at least −127.
    fn dot4(open: Self::I, u: Self::I, s: i32) -> Self::I;
    /// The sum that was opened.
    #[inline(always)]
    fn close(open: Self::I, _sum: Self::I) -> Self::I {
        open
    }
    /// What a sum of [`dot4_less_128`](Self::dot4_less_128) begins with; `sum` is −128 times the sum of all `s` to come.
    #[inline(always)]
    fn open_less_128(sum: Self::I) -> Self::I {
        sum
    }
    /// Together with what `open_less_128` gave: adds to each lane the products of its four unsigned bytes less 128 with the four signed bytes
    /// of `s`, at least −127.
    fn dot4_less_128(acc: Self::I, u: Self::I, s: i32) -> Self::I;
    /// Adds to each lane the products of its two signed halves with those of `b`.
    fn dot2(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Each byte of `i`, at most 15, becomes that entry of `table`.
    fn look_up(i: Self::I, table: &[u8; 16]) -> Self::I;
    /// Asks for the cache line at `p`, which need not be readable, to be in the second-level cache: on some machines (Zen 4) those asked into
    /// the first come later, since few can be on their way at once.
    fn prefetch(p: *const u8);
}

/// How many [`Simd::dot4`] of unsigned bytes that are at most `most` can be added before a half of 16 bits overflows.
pub(crate) const fn fit_halves(most: u8) -> usize {
    i16::MAX as usize / (2 * most as usize * 127)
}

/// A computation written once and compiled for each instruction set; `run` must be `#[inline(always)]` down to the lanes.
/// No closure may touch lanes: the compiler can leave it out of line, without the features, and then each operation is a call.
pub(crate) trait Kernel {
    fn run<S: Simd>(self);
}

impl Isa {
    /// Runs `kernel` on this instruction set.
    pub(crate) fn dispatch(self, kernel: impl Kernel) {
        match self {
            // SAFETY: the feature was seen; it does the same faster.
            #[cfg(target_arch = "x86_64")]
            Isa::Scalar if is_x86_feature_detected!("fma") => unsafe { scalar::enter_fma(kernel) },
            Isa::Scalar => kernel.run::<Scalar>(),
            // SAFETY: a `Cpu` takes an `Isa` only after `is_available` has seen its features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::enter(kernel) },
            // SAFETY: the feature was seen, the others as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni if is_x86_feature_detected!("avxvnni") => unsafe { avx2::enter_vnni(kernel) },
            // SAFETY: as above: one of the two encodings is there.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => unsafe { avx2::enter_vnni_of_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => unsafe { neon::enter_dot(kernel) },
            // Those of other machines, which `is_available` knows of none of here.
            _ => kernel.run::<Scalar>(),
        }
    }
}
