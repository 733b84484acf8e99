//! NEON, with and without the dot product of ARMv8.2: sixteen lanes are four registers.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

/// NEON whose integer products are those of `D`.
pub(crate) struct Neon<D>(PhantomData<D>);

// Written out: a derived `Clone` would ask for `D: Clone`.
impl<D> Clone for Neon<D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D> Copy for Neon<D> {}

/// Runs `kernel` on plain NEON.
///
/// # Safety
/// The machine must have it.
#[target_feature(enable = "neon")]
pub(super) unsafe fn enter(kernel: impl Kernel) {
    kernel.run::<Neon<Widening>>();
}

/// Runs `kernel` on NEON with dot products.
///
/// # Safety
/// The machine must have both.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn enter_dot(kernel: impl Kernel) {
    kernel.run::<Neon<DotProduct>>();
}

/// How a register of bytes is multiplied.
pub(crate) trait Bytes {
    /// Adds to each lane the products of its four bytes of `u` with those of `s`, at least −127.
    ///
    /// # Safety
    /// `enter` or `enter_dot` must have enabled the features.
    unsafe fn dot(acc: int32x4_t, u: int8x16_t, s: int8x16_t) -> int32x4_t;
}

/// Products widened to 16 bits and added by pairs.
pub(crate) struct Widening;
/// `sdot`.
pub(crate) struct DotProduct;

impl Bytes for Widening {
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, u: int8x16_t, s: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise. Two products of 128 · 127 fit in 16 bits, and so does their sum.
        unsafe {
            let low = vmull_s8(vget_low_s8(u), vget_low_s8(s));
            let high = vmull_high_s8(u, s);
            vpadalq_s16(acc, vpaddq_s16(low, high))
        }
    }
}

impl Bytes for DotProduct {
    #[inline(always)]
    unsafe fn dot(mut acc: int32x4_t, u: int8x16_t, s: int8x16_t) -> int32x4_t {
        // `vdotq_s32` is not stable yet.
        // SAFETY: the caller's promise; one instruction on registers.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {u:v}.16b, {s:v}.16b",
                acc = inout(vreg) acc, u = in(vreg) u, s = in(vreg) s,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];

/// Methods that do the same in all four registers. Their intrinsics are safe where `enter` has enabled the features. The body is
/// spelled out four times, since a closure might be compiled on its own, without the features.
macro_rules! all {
    ($(fn $name:ident($($arg:ident: $type:ty),*; $($same:ident: $scalar:ty),*) -> $out:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name($($arg: $type,)* $($same: $scalar),*) -> $out {
            // SAFETY: `enter` has enabled the features, here and below.
            let a = unsafe { $(let $arg = $arg[0];)* $($body)* };
            // SAFETY: as above.
            let b = unsafe { $(let $arg = $arg[1];)* $($body)* };
            // SAFETY: as above.
            let c = unsafe { $(let $arg = $arg[2];)* $($body)* };
            // SAFETY: as above.
            let d = unsafe { $(let $arg = $arg[3];)* $($body)* };
            [a, b, c, d]
        }
    )*};
}

impl<D: Bytes> Simd for Neon<D> {
    type F = F;
    type I = I;
    const WIDE: bool = false;
    const FOUR_RUNS: bool = false;

    all! {
        fn splat(; x: f32) -> F { vdupq_n_f32(x) }
        fn add(a: F, b: F;) -> F { vaddq_f32(a, b) }
        fn sub(a: F, b: F;) -> F { vsubq_f32(a, b) }
        fn mul(a: F, b: F;) -> F { vmulq_f32(a, b) }
        fn div(a: F, b: F;) -> F { vdivq_f32(a, b) }
        fn fma(a: F, b: F, c: F;) -> F { vfmaq_f32(c, a, b) }
        // `fmax` and `fmin` know NaNs and signed zeros otherwise.
        fn max(a: F, b: F;) -> F { vbslq_f32(vcgtq_f32(a, b), a, b) }
        fn min(a: F, b: F;) -> F { vbslq_f32(vcltq_f32(a, b), a, b) }
        fn canon(x: F;) -> F { vbslq_f32(vceqq_f32(x, x), x, vdupq_n_f32(f32::NAN)) }
        fn to_f(x: I;) -> F { vcvtq_f32_s32(x) }
        fn bits(x: F;) -> I { vreinterpretq_s32_f32(x) }
        fn from_bits(x: I;) -> F { vreinterpretq_f32_s32(x) }
        fn splat_i(; x: i32) -> I { vdupq_n_s32(x) }
        fn add_i(a: I, b: I;) -> I { vaddq_s32(a, b) }
        fn mul_i(a: I, b: I;) -> I { vmulq_s32(a, b) }
        fn and(a: I, b: I;) -> I { vandq_s32(a, b) }
        fn or(a: I, b: I;) -> I { vorrq_s32(a, b) }
        fn shl(x: I; n: u32) -> I { vshlq_s32(x, vdupq_n_s32(n as i32)) }
        // A shift to the left by a negative number is one to the right.
        fn shr(x: I; n: u32) -> I {
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-(n as i32))))
        }
        fn sar(x: I; n: u32) -> I { vshlq_s32(x, vdupq_n_s32(-(n as i32))) }
        fn look_up(i: I; table: &[u8; 16]) -> I {
            vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(table.as_ptr()), vreinterpretq_u8_s32(i)))
        }
        fn dot2(acc: I, a: I, b: I;) -> I {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let high = vmull_high_s16(a, b);
            vaddq_s32(acc, vpaddq_s32(low, high))
        }
        fn dot4(acc: I, u: I; s: i32) -> I { D::dot(acc, vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(vdupq_n_s32(s))) }
        fn open_less_128(_sum: I;) -> I { vdupq_n_s32(0) }
        fn dot4_less_128(acc: I, u: I; s: i32) -> I {
            let i = veorq_s8(vreinterpretq_s8_s32(u), vdupq_n_s8(-128));
            D::dot(acc, i, vreinterpretq_s8_s32(vdupq_n_s32(s)))
        }
    }

    #[inline(always)]
    fn sum(x: F) -> f32 {
        // SAFETY: `enter` has enabled the features.
        unsafe {
            let x = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x)
        }
    }
    #[inline(always)]
    fn largest(x: F) -> f32 {
        // SAFETY: `enter` has enabled the features. `fmaxnm` prefers numbers to quiet NaNs, and `canon` leaves no others.
        unsafe {
            let x = Self::canon(x);
            let x = vmaxnmq_f32(vmaxnmq_f32(x[0], x[1]), vmaxnmq_f32(x[2], x[3]));
            vmaxnmvq_f32(vmaxnmq_f32(x, vdupq_n_f32(f32::NEG_INFINITY)))
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        // SAFETY: the caller's promise.
        unsafe {
            vst1q_f32(p, x[0]);
            vst1q_f32(p.add(4), x[1]);
            vst1q_f32(p.add(8), x[2]);
            vst1q_f32(p.add(12), x[3]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = halves(p);
            [
                widen_f16(vget_low_u16(low)),
                widen_f16(vget_high_u16(low)),
                widen_f16(vget_low_u16(high)),
                widen_f16(vget_high_u16(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = halves(p);
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(low)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u8) -> I {
        let p = p.cast::<i32>();
        // SAFETY: the caller's promise; the loads ask for no alignment.
        unsafe { [vld1q_s32(p), vld1q_s32(p.add(4)), vld1q_s32(p.add(8)), vld1q_s32(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> I {
        // SAFETY: the caller's promise; the load asks for no alignment.
        unsafe {
            let bytes = vld1q_s8(p);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        }
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // The intrinsic is not stable yet.
        // SAFETY: a prefetch faults nowhere.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags)) };
    }
}

/// Sixteen halves at `p`.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(p: *const u8) -> (uint16x8_t, uint16x8_t) {
    // SAFETY: the caller's promise; the loads ask for no alignment.
    unsafe { (vld1q_u16(p.cast()), vld1q_u16(p.add(16).cast())) }
}

/// Four f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(x: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(x))
}
