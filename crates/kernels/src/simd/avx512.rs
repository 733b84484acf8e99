//! AVX-512 F, BW, VL and VNNI: sixteen lanes are one register.

use super::{Kernel, Simd};
use std::arch::{asm, x86_64::*};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Runs `kernel` with the features enabled.
///
/// # Safety
/// The machine must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn enter(kernel: impl Kernel) {
    kernel.run::<Avx512>();
}

/// Methods of one expression. Its intrinsics are safe where `enter` has enabled their features: nothing else names this type.
macro_rules! methods {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty { $($body:tt)* })*) => {$(
        $(#[$meta])*
        #[inline(always)]
        fn $name($($arg: $type),*) -> $out {
            // SAFETY: `enter` has enabled the features.
            unsafe { $($body)* }
        }
    )*};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const WIDE: bool = true;
    const FOUR_RUNS: bool = true;

    methods! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn canon(x: __m512) -> __m512 {
            _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), _mm512_set1_ps(f32::NAN))
        }
        fn sum(x: __m512) -> f32 {
            let x = _mm256_add_ps(_mm512_castps512_ps256(x), high(x));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
        fn largest(x: __m512) -> f32 {
            let low = _mm512_set1_ps(f32::NEG_INFINITY);
            _mm512_reduce_max_ps(_mm512_max_ps(x, low))
        }
        fn to_f(x: __m512i) -> __m512 { _mm512_cvtepi32_ps(x) }
        fn bits(x: __m512) -> __m512i { _mm512_castps_si512(x) }
        fn from_bits(x: __m512i) -> __m512 { _mm512_castsi512_ps(x) }
        fn splat_i(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn add_i(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn mul_i(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shl(x: __m512i, n: u32) -> __m512i { _mm512_sll_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn shr(x: __m512i, n: u32) -> __m512i { _mm512_srl_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn sar(x: __m512i, n: u32) -> __m512i { _mm512_sra_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        fn dot4(acc: __m512i, u: __m512i, s: i32) -> __m512i { _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(s)) }
        fn dot4_less_128(acc: __m512i, u: __m512i, s: i32) -> __m512i { _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(s)) }
        fn look_up(i: __m512i, table: &[u8; 16]) -> __m512i {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), i)
        }
        fn settled(x: __m512i) -> __m512i { settled(x) }
        fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpwssd_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// Not an instruction, but the compiler does not know: it may read and write memory, so that other reads stay behind it.
#[inline]
#[target_feature(enable = "avx512f")]
fn settled(mut x: __m512i) -> __m512i {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {} */", inout(zmm_reg) x, options(nostack, preserves_flags)) };
    x
}

/// Lanes 8 to 15.
#[inline]
#[target_feature(enable = "avx512f")]
fn high(x: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)))
}
