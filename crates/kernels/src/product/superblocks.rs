//! Formats with blocks of 256 columns and activations in blocks of 256: scales and minima inside a block are integers, so
//! its product is one exact integer for each, then `sum += (integer · d [− minima · dmin]) · activation scale`.

use super::blocks::fifth;
use super::{Format, PANELS};
use crate::activations::Token;
use crate::simd::{LANES, Simd};

/// How a block's codes and scales are stored, in words as in [`super::blocks`].
pub(super) trait Superblock {
    /// Words before `d`.
    const WORDS: usize;
    /// Columns that share a scale.
    const COLS: usize;
    /// Whether there are minima, and a `dmin` after `d`.
    const MIN: bool;
    /// The scales of sub-blocks 4w.., a byte for each.
    ///
    /// # Safety
    /// `block` must point to a readable panel block, here and below.
    unsafe fn scales<S: Simd>(block: *const u8, w: usize) -> S::I;
    /// Byte `i` of scales.
    fn scale<S: Simd>(scales: S::I, i: u32) -> S::I;
    /// Four vectors of two minima each as 16-bit halves, those of sub-blocks (0, 2), (1, 3), (4, 6), (5, 7).
    ///
    /// # Safety
    /// As `scales`.
    unsafe fn minima<S: Simd>(block: *const u8) -> [S::I; 4];
    /// The unsigned codes of columns 4v.. of sub-block `N` of the eight that begin with sub-block 8 · `eight`. `N` is a constant so that
    /// shifts are by constants.
    ///
    /// # Safety
    /// As `scales`.
    unsafe fn codes<S: Simd, const N: usize>(block: *const u8, eight: usize, v: usize) -> S::I;
}

/// Q4_K.
pub(super) struct Q4;
/// Q5_K.
pub(super) struct Q5;
/// Q6_K.
pub(super) struct Q6;

/// Scales of six bits: four in one word, four in two. `p` points to three words of packed scales and minima.
///
/// # Safety
/// The words must be readable.
#[inline(always)]
unsafe fn six_bits<S: Simd>(p: *const u8, w: usize) -> S::I {
    // SAFETY: the caller's promise.
    let first = unsafe { S::load_i(p) };
    if w == 0 {
        return S::and(first, S::splat_i(0x3f3f_3f3f));
    }
    // SAFETY: as above.
    let low = S::and(unsafe { S::load_i(p.add(128)) }, S::splat_i(0x0f0f_0f0f));
    S::or(low, S::and(S::shr(first, 2), S::splat_i(0x3030_3030)))
}

/// Minima of six bits beside [`six_bits`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn six_bit_minima<S: Simd>(p: *const u8) -> [S::I; 4] {
    let even = S::splat_i(0x00ff_00ff);
    // SAFETY: the caller's promise.
    let (b, c) = unsafe { (S::load_i(p.add(64)), S::load_i(p.add(128))) };
    let low = S::and(b, S::splat_i(0x3f3f_3f3f));
    let high = S::or(S::and(S::shr(c, 4), S::splat_i(0x0f0f_0f0f)), S::and(S::shr(b, 2), S::splat_i(0x3030_3030)));
    [S::and(low, even), S::and(S::shr(low, 8), even), S::and(high, even), S::and(S::shr(high, 8), even)]
}

impl Superblock for Q4 {
    const WORDS: usize = 35;
    const COLS: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(block: *const u8, w: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bits::<S>(block.add(64 * 32), w) }
    }
    #[inline(always)]
    fn scale<S: Simd>(scales: S::I, i: u32) -> S::I {
        S::and(S::shr(scales, 8 * i), S::splat_i(0xff))
    }
    #[inline(always)]
    unsafe fn minima<S: Simd>(block: *const u8) -> [S::I; 4] {
        // SAFETY: the caller's promise.
        unsafe { six_bit_minima::<S>(block.add(64 * 32)) }
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(block: *const u8, _: usize, v: usize) -> S::I {
        // SAFETY: N < 8, v < 8.
        let word = unsafe { S::load_i(block.add(64 * (N / 2 * 8 + v))) };
        S::and(S::shr(word, 4 * (N as u32 % 2)), S::splat_i(0x0f0f_0f0f))
    }
}

impl Superblock for Q5 {
    const WORDS: usize = 43;
    const COLS: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(block: *const u8, w: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bits::<S>(block.add(64 * 40), w) }
    }
    #[inline(always)]
    fn scale<S: Simd>(scales: S::I, i: u32) -> S::I {
        S::and(S::shr(scales, 8 * i), S::splat_i(0xff))
    }
    #[inline(always)]
    unsafe fn minima<S: Simd>(block: *const u8) -> [S::I; 4] {
        // SAFETY: the caller's promise.
        unsafe { six_bit_minima::<S>(block.add(64 * 40)) }
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(block: *const u8, eight: usize, v: usize) -> S::I {
        // SAFETY: N < 8, v < 8; eight words of high bits follow the 32 of low ones.
        let (low, bits) = unsafe { (Q4::codes::<S, N>(block, eight, v), S::load_i(block.add(64 * (32 + v)))) };
        S::or(low, fifth::<S>(bits, N as u32))
    }
}

impl Superblock for Q6 {
    const WORDS: usize = 52;
    const COLS: usize = 16;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(block: *const u8, w: usize) -> S::I {
        // SAFETY: the caller's promise; 32 + 16 words of codes come first.
        unsafe { S::load_i(block.add(64 * (48 + w))) }
    }
    #[inline(always)]
    fn scale<S: Simd>(scales: S::I, i: u32) -> S::I {
        S::sar(S::shl(scales, 24 - 8 * i), 24)
    }
    #[inline(always)]
    unsafe fn minima<S: Simd>(_: *const u8) -> [S::I; 4] {
        [S::splat_i(0); 4]
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(block: *const u8, half: usize, v: usize) -> S::I {
        // Of each half, 128 columns: four groups of 32, of two sub-blocks each.
        let (group, v) = (N / 2, N % 2 * 4 + v);
        // SAFETY: half < 2, group < 4, v < 8.
        let (low, bits) = unsafe {
            (S::load_i(block.add(64 * (half * 16 + group % 2 * 8 + v))), S::load_i(block.add(64 * (32 + half * 8 + v))))
        };
        let low = S::and(S::shr(low, 4 * (group as u32 / 2)), S::splat_i(0x0f0f_0f0f));
        S::or(low, S::shl(S::and(S::shr(bits, 2 * group as u32), S::splat_i(0x0303_0303)), 4))
    }
}

/// A [`Superblock`] as a [`Format`].
pub(super) struct Super<B>(std::marker::PhantomData<B>);

impl<B: Superblock> Format for Super<B> {
    type Token = Token;

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(panels: [*const u8; PANELS], cols: usize, tokens: [Token; T]) -> [[S::F; T]; PANELS] {
        let bytes = bytes::<B>();
        let mut sums = [[S::splat(0.0); T]; PANELS];
        for b in 0..cols / 256 {
            let at = [panels[0].wrapping_add(b * bytes), panels[1].wrapping_add(b * bytes)];
            // SAFETY: block b is in the panels and in the tokens.
            unsafe {
                let dots = integers::<S, B, T>(at, b, &tokens);
                for p in 0..PANELS {
                    let d = S::load_f16(at[p].add(B::WORDS * 64));
                    let minima = B::minima::<S>(at[p]);
                    for t in 0..T {
                        let mut x = S::mul(S::to_f(dots[p][t]), d);
                        if B::MIN {
                            let mut low = S::splat_i(0);
                            for i in 0..4 {
                                low = S::dot2(low, minima[i], S::splat_i(*tokens[t].pairs.add(4 * b + i)));
                            }
                            let dmin = S::load_f16(at[p].add(B::WORDS * 64 + 2 * LANES));
                            x = S::fma(S::to_f(low), S::mul(dmin, S::splat(-1.0)), x);
                        }
                        sums[p][t] = S::fma(x, S::splat(*tokens[t].scales.add(b)), sums[p][t]);
                    }
                }
            }
        }
        sums
    }
}

/// Bytes of a panel block.
const fn bytes<B: Superblock>() -> usize {
    B::WORDS * 64 + if B::MIN { 64 } else { 32 }
}

/// The integer products of block `b`, each sub-block times its scale.
///
/// # Safety
/// As [`Format::tile`]; `at` points to block `b` of each panel.
#[inline(always)]
unsafe fn integers<S: Simd, B: Superblock, const T: usize>(
    at: [*const u8; PANELS],
    b: usize,
    tokens: &[Token; T],
) -> [[S::I; T]; PANELS] {
    let mut sums = [[S::splat_i(0); T]; PANELS];
    for eight in 0..32 / B::COLS {
        macro_rules! add {
            ($($n:literal)*) => {$(
                // SAFETY: the caller's promise; the last of the last eight sub-blocks ends at column 256.
                unsafe { sub_block::<S, B, T, $n>(at, b, eight, tokens, &mut sums) };
            )*};
        }
        add!(0 1 2 3 4 5 6 7);
    }
    sums
}

/// Adds the integer products of sub-block 8 · `eight` + `N` times its scale. Asks for its share of the next block: columns do not lie in
/// order, so that the machine cannot guess what comes next.
///
/// # Safety
/// As [`integers`].
#[inline(always)]
unsafe fn sub_block<S: Simd, B: Superblock, const T: usize, const N: usize>(
    at: [*const u8; PANELS],
    b: usize,
    eight: usize,
    tokens: &[Token; T],
    sums: &mut [[S::I; T]; PANELS],
) {
    let s = 8 * eight + N;
    let mut dots = [[S::splat_i(0); T]; PANELS];
    if !B::MIN {
        for t in 0..T {
            // SAFETY: a block has sixteen sums.
            let start = S::splat_i(unsafe { *tokens[t].sums.add(16 * b + s) });
            (dots[0][t], dots[1][t]) = (start, start);
        }
    }
    for v in 0..B::COLS / 4 {
        for p in 0..PANELS {
            S::prefetch(at[p].wrapping_add(bytes::<B>() + (B::COLS / 4 * s + v) * (bytes::<B>() / 64)));
            // SAFETY: the caller's promise; a block has 256 codes.
            unsafe {
                let codes = B::codes::<S, N>(at[p], eight, v);
                for t in 0..T {
                    let word = tokens[t].codes.add(256 * b + B::COLS * s + 4 * v).cast::<i32>().read_unaligned();
                    dots[p][t] = S::dot4(dots[p][t], codes, word);
                }
            }
        }
    }
    for p in 0..PANELS {
        // SAFETY: the caller's promise.
        let scale = B::scale::<S>(unsafe { B::scales::<S>(at[p], s / 4) }, N as u32 % 4);
        for t in 0..T {
            sums[p][t] = S::add_i(sums[p][t], S::mul_i(scale, dots[p][t]));
        }
    }
}
