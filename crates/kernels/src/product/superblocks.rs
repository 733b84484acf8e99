//! Formats with blocks of 256 columns and activations in blocks of 256: scales and minima inside a block are integers, so
//! its product is one exact integer for each, then `sum += (integer · d [− minima · dmin]) · activation scale`.

use super::blocks::{IQ4_VALUES, fifth};
use super::{AHEAD, Format, ahead, ask, codes::Codes};
use crate::activations::Block256;
use crate::simd::{LANES, Simd};
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// How a block's codes and scales are stored, in words as in [`super::blocks`]: in the order in which they are wanted, so that memory is read
/// forwards.
pub(super) trait Superblock {
    /// Words; a line follows with `d` and perhaps another field of 16 bits.
    const WORDS: usize;
    /// Columns that share a scale.
    const COLS: usize;
    /// `Some(unit)` if there are minima and the other field of 16 bits is `dmin`: [`low`](Self::low) is the exact sum in these units.
    const MIN: Option<f32>;
    const CODES: Codes;
    /// How often a tile that [`waits`] asks for the same line: a core forgets some of what it is asked for.
    const ASKS: usize = 1;
    /// What a sub-block's product begins with for its unsigned codes' zero, from −32 times the sum of activations; without minima.
    #[inline(always)]
    fn zero(sum: i32) -> i32 {
        sum
    }
    /// The scale of sub-block `N` of the eight that begin with sub-block 8 · `eight`.
    ///
    /// # Safety
    /// `words` must point to a readable panel block, here and below.
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, eight: usize) -> S::I;
    /// The sum of minima times sums of the codes of `token`.
    ///
    /// # Safety
    /// As `scale`.
    #[inline(always)]
    unsafe fn low<S: Simd>(_: *const u8, _: &Block256) -> S::I {
        S::splat_i(0)
    }
    /// The unsigned codes of columns 4v.. of sub-block `N` of the eight that begin with sub-block 8 · `eight`. `N` is a constant so that
    /// shifts are by constants.
    ///
    /// # Safety
    /// As `scale`.
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, eight: usize, v: usize) -> S::I;
}

/// Q4_K.
pub(super) struct Q4;
/// Q5_K.
pub(super) struct Q5;
/// Q6_K.
pub(super) struct Q6;
/// Q3_K.
pub(super) struct Q3;
/// Q2_K.
pub(super) struct Q2;
/// IQ4_XS.
pub(super) struct Iq4;

/// Word `i` of each lane.
///
/// # Safety
/// There must be that many words.
#[inline(always)]
unsafe fn word<S: Simd>(words: *const u8, i: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { S::load_i(words.add(64 * i)) }
}

/// Scales of six bits: four in one word, four in two; the first three words are packed scales and minima.
///
/// # Safety
/// The words must be readable.
#[inline(always)]
unsafe fn six_bits<S: Simd>(words: *const u8, w: usize) -> S::I {
    // SAFETY: the caller's promise.
    let first = unsafe { word::<S>(words, 0) };
    if w == 0 {
        return S::and(first, S::splat_i(0x3f3f_3f3f));
    }
    // SAFETY: as above.
    let low = S::and(unsafe { word::<S>(words, 2) }, S::splat_i(0x0f0f_0f0f));
    S::or(low, S::and(S::shr(first, 2), S::splat_i(0x3030_3030)))
}

/// Sub-block `N`'s of these scales.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn six_bit_scale<S: Simd, const N: usize>(words: *const u8) -> S::I {
    // SAFETY: the caller's promise.
    byte::<S>(unsafe { six_bits::<S>(words, N / 4) }, N % 4)
}

/// Byte `i` of each lane.
#[inline(always)]
fn byte<S: Simd>(x: S::I, i: usize) -> S::I {
    S::and(S::shr(x, 8 * i as u32), S::splat_i(0xff))
}

/// Sum of the minima of six bits beside [`six_bits`], times sums of `token`'s codes: two in each product.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn six_bit_low<S: Simd>(words: *const u8, token: &Block256) -> S::I {
    // SAFETY: the caller's promise.
    let minima = unsafe { six_bit_minima::<S>(words) };
    let mut low = S::splat_i(0);
    for i in 0..4 {
        low = S::dot2(low, minima[i], S::splat_i(token.pairs[i]));
    }
    low
}

/// Four vectors of two minima each as 16-bit halves, those of sub-blocks (0, 2), (1, 3), (4, 6), (5, 7).
///
/// # Safety
/// As [`six_bits`].
#[inline(always)]
unsafe fn six_bit_minima<S: Simd>(words: *const u8) -> [S::I; 4] {
    let even = S::splat_i(0x00ff_00ff);
    // SAFETY: the caller's promise.
    let (b, c) = unsafe { (word::<S>(words, 1), word::<S>(words, 2)) };
    let low = S::and(b, S::splat_i(0x3f3f_3f3f));
    let high = S::or(S::and(S::shr(c, 4), S::splat_i(0x0f0f_0f0f)), S::and(S::shr(b, 2), S::splat_i(0x3030_3030)));
    [S::and(low, even), S::and(S::shr(low, 8), even), S::and(high, even), S::and(S::shr(high, 8), even)]
}

/// Of 32 words: those of two sub-blocks share eight.
///
/// # Safety
/// The words must be readable.
#[inline(always)]
unsafe fn nibbles<S: Simd, const N: usize>(words: *const u8, v: usize) -> S::I {
    // SAFETY: N < 8, v < 8.
    let word = unsafe { word::<S>(words, N / 2 * 8 + v) };
    S::and(S::shr(word, 4 * (N as u32 % 2)), S::splat_i(0x0f0f_0f0f))
}

impl Superblock for Q4 {
    const WORDS: usize = 35;
    const ASKS: usize = 3;
    const COLS: usize = 32;
    const CODES: Codes = Codes::UpTo(15);
    const MIN: Option<f32> = Some(1.0);

    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, _: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bit_scale::<S, N>(words) }
    }
    #[inline(always)]
    unsafe fn low<S: Simd>(words: *const u8, token: &Block256) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bit_low::<S>(words, token) }
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, _: usize, v: usize) -> S::I {
        // SAFETY: the caller's promise; three words of scales come first.
        unsafe { nibbles::<S, N>(words.add(64 * 3), v) }
    }
}

impl Superblock for Q5 {
    const WORDS: usize = 43;
    const ASKS: usize = 3;
    const COLS: usize = 32;
    const CODES: Codes = Codes::UpTo(31);
    const MIN: Option<f32> = Some(1.0);

    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, _: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bit_scale::<S, N>(words) }
    }
    #[inline(always)]
    unsafe fn low<S: Simd>(words: *const u8, token: &Block256) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { six_bit_low::<S>(words, token) }
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, _: usize, v: usize) -> S::I {
        // SAFETY: v < 8; three words of scales and eight of high bits come first.
        let (low, bits) = unsafe { (nibbles::<S, N>(words.add(64 * 11), v), word::<S>(words, 3 + v)) };
        S::or(low, fifth::<S>(bits, N as u32))
    }
}

impl Superblock for Q6 {
    const WORDS: usize = 52;
    const ASKS: usize = 3;
    const COLS: usize = 16;
    const CODES: Codes = Codes::UpTo(63);
    const MIN: Option<f32> = None;

    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, half: usize) -> S::I {
        // SAFETY: the caller's promise; each half has two words of scales, eight of high bits and sixteen of low ones.
        let scales = unsafe { word::<S>(words, 26 * half + N / 4) };
        S::sar(S::shl(scales, 24 - 8 * (N as u32 % 4)), 24)
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, half: usize, v: usize) -> S::I {
        // Of each half, 128 columns: four groups of 32, of two sub-blocks each.
        let (group, v) = (N / 2, N % 2 * 4 + v);
        // SAFETY: half < 2, group < 4, v < 8.
        let (low, bits) = unsafe { (word::<S>(words, 26 * half + 10 + group % 2 * 8 + v), word::<S>(words, 26 * half + 2 + v)) };
        let low = S::and(S::shr(low, 4 * (group as u32 / 2)), S::splat_i(0x0f0f_0f0f));
        S::or(low, S::shl(S::and(S::shr(bits, 2 * group as u32), S::splat_i(0x0303_0303)), 4))
    }
}

/// Bit pairs of sub-block `N` of half `half`, in 16 words: four groups of 32 columns in each half.
///
/// # Safety
/// The words must be readable.
#[inline(always)]
unsafe fn bit_pairs<S: Simd, const N: usize>(words: *const u8, half: usize, v: usize) -> S::I {
    // SAFETY: half < 2, v < 4.
    let word = unsafe { word::<S>(words, half * 8 + N % 2 * 4 + v) };
    S::and(S::shr(word, 2 * (N as u32 / 2)), S::splat_i(0x0303_0303))
}

impl Superblock for Q3 {
    const WORDS: usize = 27;
    const COLS: usize = 16;
    const CODES: Codes = Codes::UpTo(7);
    const MIN: Option<f32> = None;

    #[inline(always)]
    fn zero(sum: i32) -> i32 {
        sum >> 3 // their zero is 4
    }
    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, half: usize) -> S::I {
        // SAFETY: the caller's promise; two words of nibbles and one of their upper bits come first.
        let (low, high) = unsafe { (word::<S>(words, N / 4), word::<S>(words, 2)) };
        let low = S::and(byte::<S>(S::shr(low, 4 * half as u32), N % 4), S::splat_i(15));
        let high = S::and(byte::<S>(S::shr(high, 2 * (2 * half + N / 4) as u32), N % 4), S::splat_i(3));
        S::add_i(S::or(low, S::shl(high, 4)), S::splat_i(-32))
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, half: usize, v: usize) -> S::I {
        // SAFETY: the caller's promise; after those of scales there are eight words of third bits and 16 of bit pairs.
        let (low, bits) = unsafe { (bit_pairs::<S, N>(words.add(64 * 11), half, v), word::<S>(words, 3 + N % 2 * 4 + v)) };
        let high = S::and(S::shr(bits, (4 * half + N / 2) as u32), S::splat_i(0x0101_0101));
        S::or(low, S::shl(high, 2))
    }
}

impl Superblock for Q2 {
    const WORDS: usize = 20;
    const COLS: usize = 16;
    const CODES: Codes = Codes::UpTo(3);
    // Sums of 16 codes are kept times −32.
    const MIN: Option<f32> = Some(-1.0 / 32.0);

    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, half: usize) -> S::I {
        // SAFETY: the caller's promise; four words of scales and minima come first.
        let word = unsafe { word::<S>(words, 2 * half + N / 4) };
        S::and(byte::<S>(word, N % 4), S::splat_i(15))
    }
    #[inline(always)]
    unsafe fn low<S: Simd>(words: *const u8, token: &Block256) -> S::I {
        let mut low = S::splat_i(0);
        for s in 0..16 {
            // SAFETY: the caller's promise.
            let word = unsafe { word::<S>(words, s / 4) };
            low = S::add_i(low, S::mul_i(S::shr(byte::<S>(word, s % 4), 4), S::splat_i(token.sums[s])));
        }
        low
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, half: usize, v: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { bit_pairs::<S, N>(words.add(64 * 4), half, v) }
    }
}

impl Superblock for Iq4 {
    const WORDS: usize = 33;
    const COLS: usize = 32;
    const MIN: Option<f32> = None;
    const CODES: Codes = Codes::Less128;

    #[inline(always)]
    fn zero(sum: i32) -> i32 {
        sum << 2 // their zero is 128
    }
    #[inline(always)]
    unsafe fn scale<S: Simd, const N: usize>(words: *const u8, _: usize) -> S::I {
        // SAFETY: the caller's promise; a word of nibbles comes first, and their upper bits come last, after `d`.
        let (low, high) = unsafe { (word::<S>(words, 0), S::bits(S::load_bf16(words.add(64 * Self::WORDS + 2 * LANES)))) };
        let low = S::and(S::shr(low, 4 * N as u32), S::splat_i(15));
        let high = S::and(S::shr(high, 16 + 2 * N as u32), S::splat_i(3));
        S::add_i(S::or(low, S::shl(high, 4)), S::splat_i(-32))
    }
    #[inline(always)]
    unsafe fn codes<S: Simd, const N: usize>(words: *const u8, _: usize, v: usize) -> S::I {
        // SAFETY: N < 8, v < 8.
        let word = unsafe { word::<S>(words, 1 + 4 * N + v % 4) };
        S::look_up(S::and(S::shr(word, 4 * (v as u32 / 4)), S::splat_i(0x0f0f_0f0f)), &IQ4_VALUES)
    }
}

/// A [`Superblock`] as a [`Format`].
pub(super) struct Super<B>(std::marker::PhantomData<B>);

impl<B: Superblock> Format for Super<B> {
    type Columns = Block256;

    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const T: usize>(
        panels: [*const u8; P],
        cols: usize,
        tokens: [*const Block256; T],
    ) -> [[S::F; T]; P] {
        let bytes = bytes::<B>();
        let mut sums = [[S::splat(0.0); T]; P];
        let mut at = panels;
        for b in 0..cols / 256 {
            let next = ahead::<P, T>(panels, b * bytes, if waits::<S, B, T>() { 3 * AHEAD } else { AHEAD }, cols / 256 * bytes);
            // SAFETY: block b is in the panels and in the tokens.
            unsafe {
                let dots = integers::<S, B, P, T>(at, next, b, &tokens);
                for p in 0..P {
                    let halves = at[p].add(64 * B::WORDS);
                    let d = S::load_f16(halves);
                    for t in 0..T {
                        let mut x = S::mul(S::to_f(dots[p][t]), d);
                        if let Some(unit) = B::MIN {
                            let dmin = S::load_f16(halves.add(2 * LANES));
                            x = S::fma(S::to_f(B::low::<S>(at[p], &*tokens[t].add(b))), S::mul(dmin, S::splat(-unit)), x);
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

/// Bytes of a panel block.
const fn bytes<B: Superblock>() -> usize {
    64 * (B::WORDS + 1)
}

/// Those of them that a sub-block asks for: as many with every four columns as a block has lines.
const fn share<B: Superblock>() -> usize {
    B::COLS / 4 * (B::WORDS + 1)
}

/// Whether a tile asks further ahead and [`ASKS`](Superblock::ASKS) times: one token waits for memory, two still gain by repetition.
#[inline(always)]
fn waits<S: Simd, B: Superblock, const T: usize>() -> bool {
    T == 1 || T == 2 && S::WIDE && B::ASKS > 1
}

/// The integer products of block `b`, each sub-block times its scale.
///
/// # Safety
/// As [`Format::tile`]; `at` points to block `b` of each panel.
#[inline(always)]
unsafe fn integers<S: Simd, B: Superblock, const P: usize, const T: usize>(
    at: [*const u8; P],
    next: [*const u8; P],
    b: usize,
    tokens: &[*const Block256; T],
) -> [[S::I; T]; P] {
    let mut sums = [[S::splat_i(0); T]; P];
    macro_rules! add {
        ($eight:expr, $($n:literal)*) => {{
            let mut next = next;
            for p in 0..P {
                next[p] = next[p].wrapping_add(8 * $eight * share::<B>());
            }
            // SAFETY: the caller's promise; the last of the last eight sub-blocks ends at column 256.
            $(unsafe { sub_block::<S, B, P, T, $n>(at, next, b, $eight, tokens, &mut sums) };)*
        }};
    }
    // Those that share words follow one another.
    if B::COLS == 32 {
        add!(0, 0 1 2 3 4 5 6 7);
    } else if S::WIDE || B::WORDS < 32 {
        add!(0, 0 1 4 5 2 3 6 7);
        add!(1, 0 1 4 5 2 3 6 7);
    } else {
        // Where a vector is two registers, that many instructions would be slower written out.
        for eight in 0..2 {
            add!(eight, 0 1 4 5 2 3 6 7);
        }
    }
    sums
}

/// Adds the integer products of sub-block 8 · `eight` + `N` times its scale. Asks for its share of `next`.
///
/// # Safety
/// As [`integers`].
#[inline(always)]
unsafe fn sub_block<S: Simd, B: Superblock, const P: usize, const T: usize, const N: usize>(
    at: [*const u8; P],
    next: [*const u8; P],
    b: usize,
    eight: usize,
    tokens: &[*const Block256; T],
    sums: &mut [[S::I; T]; P],
) {
    let s = 8 * eight + N;
    let mut dots = [[S::splat_i(0); T]; P];
    if B::MIN.is_none() {
        for t in 0..T {
            // SAFETY: the caller's promise.
            let sums = unsafe { &(*tokens[t].add(b)).sums };
            let start = S::splat_i(B::zero(if B::COLS == 16 { sums[s] } else { sums[2 * s] + sums[2 * s + 1] }));
            for p in 0..P {
                dots[p][t] = start;
            }
        }
    }
    let (run, start) = (B::CODES.run(B::COLS / 4), dots);
    for p in 0..P {
        for t in 0..T {
            dots[p][t] = run.open::<S>(start[p][t]);
        }
    }
    for v in 0..B::COLS / 4 {
        if T == 1 {
            // Memory is the limit, and is fastest read forwards: no read may move to another step.
            compiler_fence(SeqCst);
        }
        for p in 0..P {
            for again in 0..if waits::<S, B, T>() { B::ASKS } else { 1 } {
                ask::<S, T>(next[p].wrapping_add(N * share::<B>() + v * (B::WORDS + 1) + 64 * again));
            }
            // SAFETY: the caller's promise; a block has 256 codes.
            unsafe {
                let codes = B::codes::<S, N>(at[p], eight, v);
                for t in 0..T {
                    let word = (*tokens[t].add(b)).word(B::COLS / 4 * s + v);
                    dots[p][t] = run.add::<S>(dots[p][t], codes, word);
                }
            }
        }
    }
    for p in 0..P {
        // SAFETY: the caller's promise.
        let scale = unsafe { B::scale::<S, N>(at[p], eight) };
        for t in 0..T {
            let dot = run.close::<S>(dots[p][t], start[p][t]);
            sums[p][t] = S::settled(S::add_i(sums[p][t], S::mul_i(scale, dot)));
        }
    }
}
