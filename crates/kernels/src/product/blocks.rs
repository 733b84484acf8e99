//! Formats with blocks of 32 columns and activations in blocks of 32: for each block an exact integer product, then
//! `sum += (integer · d [+ m · Σ codes]) · activation scale`.

use super::{AHEAD, Format, ahead, ask, codes::Codes};
use crate::activations::Block32;
use crate::simd::{LANES, Simd};

/// How a block's codes are stored. Words are vectors of 64 bytes; each 32-bit lane holds four columns of one row.
pub(super) trait Block {
    /// Words before the scales.
    const WORDS: usize;
    /// Whether a minimum follows the scale.
    const MIN: bool;
    const CODES: Codes;
    /// The codes of columns 4v.. and 16 + 4v..
    ///
    /// # Safety
    /// `block` must point to a readable panel block.
    unsafe fn codes<S: Simd>(block: *const u8, v: usize) -> [S::I; 2];
}

/// Q4_0, or Q4_1 with a minimum.
pub(super) struct Q4<const MIN: bool>;
/// Q5_0, or Q5_1 with a minimum.
pub(super) struct Q5<const MIN: bool>;
/// Q8_0.
pub(super) struct Q8;
/// IQ4_NL.
pub(super) struct Iq4;

impl<const M: bool> Block for Q4<M> {
    const WORDS: usize = 4;
    const MIN: bool = M;
    const CODES: Codes = Codes::UpTo(15);

    #[inline(always)]
    unsafe fn codes<S: Simd>(block: *const u8, v: usize) -> [S::I; 2] {
        let low = S::splat_i(0x0f0f_0f0f);
        // SAFETY: v < 4 words are in the block.
        let word = unsafe { S::load_i(block.add(64 * v)) };
        [S::and(word, low), S::and(S::shr(word, 4), low)]
    }
}

impl<const M: bool> Block for Q5<M> {
    const WORDS: usize = 5;
    const MIN: bool = M;
    const CODES: Codes = Codes::UpTo(31);

    #[inline(always)]
    unsafe fn codes<S: Simd>(block: *const u8, v: usize) -> [S::I; 2] {
        // SAFETY: as Q4; the fifth word holds the high bits.
        let ([low, high], bits) = unsafe { (Q4::<M>::codes::<S>(block, v), S::load_i(block.add(64 * 4))) };
        [S::or(low, fifth::<S>(bits, v as u32)), S::or(high, fifth::<S>(bits, v as u32 + 4))]
    }
}

/// Bit `n` of each byte, moved to bit 4.
#[inline(always)]
pub(super) fn fifth<S: Simd>(bits: S::I, n: u32) -> S::I {
    S::shl(S::and(S::shr(bits, n), S::splat_i(0x0101_0101)), 4)
}

impl Block for Q8 {
    const WORDS: usize = 8;
    const MIN: bool = false;
    const CODES: Codes = Codes::Less128;

    #[inline(always)]
    unsafe fn codes<S: Simd>(block: *const u8, v: usize) -> [S::I; 2] {
        // SAFETY: v < 4, and eight words are in the block.
        unsafe { [S::load_i(block.add(64 * v)), S::load_i(block.add(64 * (v + 4)))] }
    }
}

impl Block for Iq4 {
    const WORDS: usize = 4;
    const MIN: bool = false;
    const CODES: Codes = Codes::Less128;

    #[inline(always)]
    unsafe fn codes<S: Simd>(block: *const u8, v: usize) -> [S::I; 2] {
        // SAFETY: the caller's promise; words are as in Q4.
        let [low, high] = unsafe { Q4::<false>::codes::<S>(block, v) };
        [S::look_up(low, &IQ4_VALUES), S::look_up(high, &IQ4_VALUES)]
    }
}

/// What the codes of IQ4_NL and IQ4_XS stand for, plus 128.
pub(super) static IQ4_VALUES: [u8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (coffer_checkpoint::blocks::IQ4_VALUES[i] as u8) ^ 0x80;
        i += 1;
    }
    table
};

/// A [`Block`] as a [`Format`].
pub(super) struct Blocks<B>(std::marker::PhantomData<B>);

impl<B: Block> Format for Blocks<B> {
    type Columns = Block32;

    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const T: usize>(
        panels: [*const u8; P],
        cols: usize,
        tokens: [*const Block32; T],
    ) -> [[S::F; T]; P] {
        let bytes = B::WORDS * 64 + if B::MIN { 64 } else { 32 };
        let mut sums = [[S::splat(0.0); T]; P];
        let mut at = panels;
        for b in 0..cols / 32 {
            let next = ahead::<P, T>(panels, b * bytes, if by_pairs::<S, T>() { 1536 } else { AHEAD }, cols / 32 * bytes);
            // SAFETY: block b is in the panels and in the tokens.
            unsafe {
                let dots = integers::<S, B, P, T>(at, next, b, &tokens);
                for p in 0..P {
                    ask::<S, T>(next[p].wrapping_add(B::WORDS * 64));
                    let scales = at[p].add(B::WORDS * 64);
                    let d = S::load_f16(scales);
                    for t in 0..T {
                        let mut x = S::mul(S::to_f(dots[p][t]), d);
                        if B::MIN {
                            let m = S::load_f16(scales.add(2 * LANES));
                            x = S::fma(m, S::to_f(S::splat_i((*tokens[t].add(b)).sum)), x);
                        }
                        sums[p][t] = S::fma(x, S::splat((*tokens[t].add(b)).scale), sums[p][t]);
                    }
                    at[p] = at[p].wrapping_add(bytes);
                }
            }
        }
        sums
    }
}

/// Whether a tile asks for every other line alone, whose neighbour comes along.
#[inline(always)]
fn by_pairs<S: Simd, const T: usize>() -> bool {
    S::WIDE && T == 1
}

/// The integer products of block `b`: codes minus their zero point, which the token's sum already holds, times activations.
/// Asks for the codes of `next`.
///
/// # Safety
/// As [`Format::tile`]; `at` points to block `b` of each panel.
#[inline(always)]
unsafe fn integers<S: Simd, B: Block, const P: usize, const T: usize>(
    at: [*const u8; P],
    next: [*const u8; P],
    b: usize,
    tokens: &[*const Block32; T],
) -> [[S::I; T]; P] {
    let run = B::CODES.run(8);
    let mut sums = [[S::splat_i(0); T]; P];
    if !B::MIN {
        for t in 0..T {
            // SAFETY: the caller's promise.
            let zero = S::splat_i(unsafe { (*tokens[t].add(b)).sum });
            for p in 0..P {
                sums[p][t] = zero;
            }
        }
    }
    let mut dots = sums;
    for p in 0..P {
        for t in 0..T {
            dots[p][t] = run.open::<S>(sums[p][t]);
        }
    }
    macro_rules! add {
        ($($v:literal)*) => {$(
            // SAFETY: the caller's promise.
            unsafe { columns::<S, B, P, T, $v>(at, next, b, tokens, &mut dots) };
        )*};
    }
    add!(0 1 2 3);
    for p in 0..P {
        for t in 0..T {
            let dot = run.close::<S>(dots[p][t], sums[p][t]);
            // A lone token has registers enough.
            dots[p][t] = if T == 1 { dot } else { S::settled(dot) };
        }
    }
    dots
}

/// Adds the integer products of columns 4 · `V`.. and 16 + 4 · `V`.. of block `b`. `V` is a constant as `N` is in superblocks.
///
/// # Safety
/// As [`integers`].
#[inline(always)]
unsafe fn columns<S: Simd, B: Block, const P: usize, const T: usize, const V: usize>(
    at: [*const u8; P],
    next: [*const u8; P],
    b: usize,
    tokens: &[*const Block32; T],
    dots: &mut [[S::I; T]; P],
) {
    let run = B::CODES.run(8);
    for p in 0..P {
        let line = B::WORDS / 4 * 64 * V;
        if line.is_multiple_of(128) || !by_pairs::<S, T>() {
            ask::<S, T>(next[p].wrapping_add(line));
        }
        // SAFETY: the caller's promise; a block has 32 codes.
        unsafe {
            let [low, high] = B::codes::<S>(at[p], V);
            for t in 0..T {
                let token = &*tokens[t].add(b);
                dots[p][t] = run.add::<S>(dots[p][t], low, token.word(V));
                dots[p][t] = run.add::<S>(dots[p][t], high, token.word(4 + V));
            }
        }
    }
}
