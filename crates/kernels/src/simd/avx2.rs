//! AVX2, FMA and F16C, with and without VNNI: sixteen lanes are two registers.

use super::{Kernel, Simd};
use std::arch::{asm, x86_64::*};
use std::marker::PhantomData;

/// AVX2 whose integer products are those of `P`.
pub(crate) struct Avx2<P>(PhantomData<P>);

// Written out: a derived `Clone` would ask for `P: Clone`.
impl<P> Clone for Avx2<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Avx2<P> {}

/// Runs `kernel` on plain AVX2.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter(kernel: impl Kernel) {
    kernel.run::<Avx2<Pairs>>();
}

/// Runs `kernel` on AVX2 with VNNI, as processors without AVX-512 have it.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn enter_vnni(kernel: impl Kernel) {
    kernel.run::<Avx2<AvxVnni>>();
}

/// Runs `kernel` on AVX2 with AVX-512's VNNI for its registers: the same instructions in another encoding.
///
/// # Safety
/// The machine must have the features.
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
pub(super) unsafe fn enter_vnni_of_avx512(kernel: impl Kernel) {
    kernel.run::<Avx2<Avx512Vnni>>();
}

/// How a register of integers is multiplied.
pub(crate) trait Products {
    /// As in [`Simd`], here and below.
    ///
    /// # Safety
    /// The features of this kind must be enabled, here and below.
    #[inline(always)]
    unsafe fn open(sum: __m256i) -> __m256i {
        sum
    }
    /// # Safety
    /// As for `open`.
    unsafe fn dot4(open: __m256i, u: __m256i, s: __m256i) -> __m256i;
    /// # Safety
    /// As for `open`.
    #[inline(always)]
    unsafe fn close(open: __m256i, _sum: __m256i) -> __m256i {
        open
    }
    /// # Safety
    /// As for `open`.
    #[inline(always)]
    unsafe fn open_less_128(sum: __m256i) -> __m256i {
        sum
    }
    /// # Safety
    /// As for `open`.
    unsafe fn dot4_less_128(acc: __m256i, u: __m256i, s: __m256i) -> __m256i;
    /// # Safety
    /// As for `open`.
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
}

/// Products in 16 bits, added by pairs.
pub(crate) struct Pairs;
/// VNNI in VEX encoding.
pub(crate) struct AvxVnni;
/// VNNI in EVEX encoding.
pub(crate) struct Avx512Vnni;

impl Products for Pairs {
    #[inline(always)]
    unsafe fn open(_: __m256i) -> __m256i {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot4(open: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: as above. 2 · 127 · 127 fits in the 16 bits that `maddubs` saturates at, and a run in those of the sum.
        unsafe { _mm256_add_epi16(open, _mm256_maddubs_epi16(u, s)) }
    }
    #[inline(always)]
    unsafe fn close(open: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { Self::dot2(sum, open, _mm256_set1_epi16(1)) }
    }
    #[inline(always)]
    unsafe fn open_less_128(_: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot4_less_128(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: as above. The sign goes from one factor to the other; 2 · 128 · 127 fits as well.
        unsafe {
            let i = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(i), _mm256_sign_epi8(s, i));
            Self::dot2(acc, pairs, _mm256_set1_epi16(1))
        }
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }
}

/// VNNI in one of its encodings, by its instructions for bytes and for halves; neither saturates.
macro_rules! vnni {
    ($kind:ty, $bytes:ident, $halves:ident) => {
        impl Products for $kind {
            #[inline(always)]
            unsafe fn dot4(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $bytes(acc, u, s) }
            }
            #[inline(always)]
            unsafe fn dot4_less_128(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $bytes(acc, u, s) }
            }
            #[inline(always)]
            unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $halves(acc, a, b) }
            }
        }
    };
}
vnni!(AvxVnni, _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32);
vnni!(Avx512Vnni, _mm256_dpbusd_epi32, _mm256_dpwssd_epi32);

type F = [__m256; 2];
type I = [__m256i; 2];

/// Methods that do the same in both registers. Their intrinsics are safe where `enter` has enabled the features. The body is
/// spelled out twice, since a closure might be compiled on its own, without the features.
macro_rules! both {
    ($(fn $name:ident($($arg:ident: $type:ty),*; $($same:ident: $scalar:ty),*) -> $out:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name($($arg: $type,)* $($same: $scalar),*) -> $out {
            // SAFETY: `enter` has enabled the features.
            let low = unsafe { $(let $arg = $arg[0];)* $($body)* };
            // SAFETY: as above.
            let high = unsafe { $(let $arg = $arg[1];)* $($body)* };
            [low, high]
        }
    )*};
}

impl<P: Products> Simd for Avx2<P> {
    type F = F;
    type I = I;
    const WIDE: bool = false;
    const FOUR_RUNS: bool = true;

    both! {
        fn splat(; x: f32) -> F { _mm256_set1_ps(x) }
        fn add(a: F, b: F;) -> F { _mm256_add_ps(a, b) }
        fn sub(a: F, b: F;) -> F { _mm256_sub_ps(a, b) }
        fn mul(a: F, b: F;) -> F { _mm256_mul_ps(a, b) }
        fn div(a: F, b: F;) -> F { _mm256_div_ps(a, b) }
        fn fma(a: F, b: F, c: F;) -> F { _mm256_fmadd_ps(a, b, c) }
        fn max(a: F, b: F;) -> F { _mm256_max_ps(a, b) }
        fn min(a: F, b: F;) -> F { _mm256_min_ps(a, b) }
        fn canon(x: F;) -> F { _mm256_blendv_ps(x, _mm256_set1_ps(f32::NAN), _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)) }
        fn to_f(x: I;) -> F { _mm256_cvtepi32_ps(x) }
        fn bits(x: F;) -> I { _mm256_castps_si256(x) }
        fn from_bits(x: I;) -> F { _mm256_castsi256_ps(x) }
        fn splat_i(; x: i32) -> I { _mm256_set1_epi32(x) }
        fn add_i(a: I, b: I;) -> I { _mm256_add_epi32(a, b) }
        fn mul_i(a: I, b: I;) -> I { _mm256_mullo_epi32(a, b) }
        fn and(a: I, b: I;) -> I { _mm256_and_si256(a, b) }
        fn or(a: I, b: I;) -> I { _mm256_or_si256(a, b) }
        fn shl(x: I; n: u32) -> I { _mm256_sll_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn shr(x: I; n: u32) -> I { _mm256_srl_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn sar(x: I; n: u32) -> I { _mm256_sra_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn look_up(i: I; table: &[u8; 16]) -> I {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), i)
        }
        fn settled(x: I;) -> I { settled(x) }
        fn dot2(acc: I, a: I, b: I;) -> I { P::dot2(acc, a, b) }
        fn open(sum: I;) -> I { P::open(sum) }
        fn dot4(open: I, u: I; s: i32) -> I { P::dot4(open, u, _mm256_set1_epi32(s)) }
        fn close(open: I, sum: I;) -> I { P::close(open, sum) }
        fn open_less_128(sum: I;) -> I { P::open_less_128(sum) }
        fn dot4_less_128(acc: I, u: I; s: i32) -> I { P::dot4_less_128(acc, u, _mm256_set1_epi32(s)) }
    }

    #[inline(always)]
    fn sum(x: F) -> f32 {
        // SAFETY: `enter` has enabled the features.
        unsafe {
            let x = _mm256_add_ps(x[0], x[1]);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn largest(x: F) -> f32 {
        // SAFETY: `enter` has enabled the features.
        unsafe {
            let low = _mm256_set1_ps(f32::NEG_INFINITY);
            let x = _mm256_max_ps(x[0], _mm256_max_ps(x[1], low));
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))]
        }
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// Not an instruction, but the compiler does not know: it may read and write memory, so that other reads stay behind it.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut x: __m256i) -> __m256i {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {} */", inout(ymm_reg) x, options(nostack, preserves_flags)) };
    x
}
