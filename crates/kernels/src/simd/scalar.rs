//! Plain Rust: the meaning of each operation.

use super::{LANES, Simd};
use std::array::from_fn;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Runs `kernel` where the compiler may take one instruction for [`Simd::fma`]; elsewhere it is a call.
///
/// # Safety
/// The machine must have it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma")]
pub(super) unsafe fn enter_fma(kernel: impl super::Kernel) {
    kernel.run::<Scalar>();
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const WIDE: bool = false;
    const FOUR_RUNS: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| {
            // Exponent and fraction in place; the product moves the bias, exactly, and makes denormals normal.
            let size = f32::from_bits(u32::from(x & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
            let special = if x & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
            f32::from_bits(size.to_bits() | special | u32::from(x & 0x8000) << 16)
        })
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    fn add(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn sub(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| a[l] - b[l])
    }
    #[inline(always)]
    fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| a[l] * b[l])
    }
    #[inline(always)]
    fn div(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| a[l] / b[l])
    }
    #[inline(always)]
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn max(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn min(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|l| if a[l] < b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn canon(x: Self::F) -> Self::F {
        x.map(|x| if x.is_nan() { f32::NAN } else { x })
    }
    #[inline(always)]
    fn sum(mut x: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                x[l] += x[l + half];
            }
        }
        x[0]
    }
    #[inline(always)]
    fn largest(x: Self::F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    fn to_f(x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn bits(x: Self::F) -> Self::I {
        x.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn from_bits(x: Self::I) -> Self::F {
        x.map(|x| f32::from_bits(x as u32))
    }

    #[inline(always)]
    fn splat_i(x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::I>().read_unaligned() }.map(i32::from_le)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; LANES]>().read() }.map(i32::from)
    }
    #[inline(always)]
    fn add_i(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|l| a[l].wrapping_add(b[l]))
    }
    #[inline(always)]
    fn mul_i(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|l| a[l].wrapping_mul(b[l]))
    }
    #[inline(always)]
    fn and(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|l| a[l] & b[l])
    }
    #[inline(always)]
    fn or(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|l| a[l] | b[l])
    }
    #[inline(always)]
    fn shl(x: Self::I, n: u32) -> Self::I {
        x.map(|x| x << n)
    }
    #[inline(always)]
    fn shr(x: Self::I, n: u32) -> Self::I {
        x.map(|x| (x as u32 >> n) as i32)
    }
    #[inline(always)]
    fn sar(x: Self::I, n: u32) -> Self::I {
        x.map(|x| x >> n)
    }
    #[inline(always)]
    fn dot4(acc: Self::I, u: Self::I, s: i32) -> Self::I {
        let [a, b, c, d] = s.to_le_bytes().map(|s| i32::from(s as i8));
        let acc: Self::I = from_fn(|l| acc[l].wrapping_add((u[l] & 0xff) * a));
        let acc: Self::I = from_fn(|l| acc[l].wrapping_add((u[l] >> 8 & 0xff) * b));
        let acc: Self::I = from_fn(|l| acc[l].wrapping_add((u[l] >> 16 & 0xff) * c));
        from_fn(|l| acc[l].wrapping_add((u[l] >> 24 & 0xff) * d))
    }
    #[inline(always)]
    fn dot4_less_128(acc: Self::I, u: Self::I, s: i32) -> Self::I {
        Self::dot4(acc, u, s)
    }
    #[inline(always)]
    fn dot2(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let low = |x: i32| i32::from(x as i16);
        from_fn(|l| acc[l].wrapping_add(low(a[l]) * low(b[l])).wrapping_add((a[l] >> 16) * (b[l] >> 16)))
    }
    #[inline(always)]
    fn look_up(i: Self::I, table: &[u8; 16]) -> Self::I {
        i.map(|i| i32::from_le_bytes(i.to_le_bytes().map(|i| table[usize::from(i & 15)])))
    }
    #[inline(always)]
    fn prefetch(_: *const u8) {}
}
