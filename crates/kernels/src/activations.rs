//! Activations as codes of eight bits, in blocks that have one scale each.

use crate::Isa;
use crate::pool::Pool;
use crate::simd::{Kernel, Simd};
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// How a weight format wants its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As [`Block32`]s whose `sum` is `factor` times that of their codes.
    Blocks { factor: i32 },
    /// As [`Block256`]s.
    Superblocks,
}

/// 32 columns of a token.
#[repr(C)]
pub(crate) struct Block32 {
    codes: [i8; 32],
    pub(crate) scale: f32,
    /// A factor times the sum of the codes.
    pub(crate) sum: i32,
}

/// 256 columns of a token.
#[repr(C)]
pub(crate) struct Block256 {
    codes: [i8; 256],
    pub(crate) scale: f32,
    /// The sums of every 32 codes as 16-bit halves: those of columns (0, 64), (32, 96), (128, 192), (160, 224).
    pub(crate) pairs: [i32; 4],
    /// −32 times the sum of every 16 codes.
    pub(crate) sums: [i32; 16],
}

/// Coded activations, `[tokens, blocks]`.
pub(crate) enum Activations {
    Blocks { factor: i32, blocks: Vec<Block32> },
    Superblocks(Vec<Block256>),
}

impl Activations {
    /// Codes `x`, which is whole blocks.
    pub(crate) fn new(coding: Coding, x: &[f32], isa: Isa, pool: &Pool) -> Self {
        match coding {
            Coding::Blocks { factor } => Activations::Blocks { factor, blocks: coded(x, factor, isa, pool) },
            Coding::Superblocks => Activations::Superblocks(coded(x, -32, isa, pool)),
        }
    }

    pub(crate) fn coding(&self) -> Coding {
        match *self {
            Activations::Blocks { factor, .. } => Coding::Blocks { factor },
            Activations::Superblocks(_) => Coding::Superblocks,
        }
    }
}

impl Block32 {
    /// Codes 4 · `i`.. to 4 · `i` + 3, below 8, as bytes of a word.
    #[inline(always)]
    pub(crate) fn word(&self, i: usize) -> i32 {
        word(&self.codes, i)
    }
}

impl Block256 {
    /// Codes 4 · `i`.. to 4 · `i` + 3, below 64, as bytes of a word.
    #[inline(always)]
    pub(crate) fn word(&self, i: usize) -> i32 {
        word(&self.codes, i)
    }
}

#[inline(always)]
fn word(codes: &[i8], i: usize) -> i32 {
    i32::from_le_bytes([codes[4 * i] as u8, codes[4 * i + 1] as u8, codes[4 * i + 2] as u8, codes[4 * i + 3] as u8])
}

/// Some columns of a token, as a kernel reads them.
pub(crate) trait Columns {
    /// How many they are.
    const COLS: usize;
}

impl Columns for f32 {
    const COLS: usize = 1;
}

impl Columns for Block32 {
    const COLS: usize = 32;
}

impl Columns for Block256 {
    const COLS: usize = 256;
}

trait Coded: Columns + Sized + Send {
    /// Of `COLS` activations; `factor` is that of its sums.
    fn new(x: &[f32], factor: i32) -> Self;
}

impl Coded for Block32 {
    #[inline(always)]
    fn new(x: &[f32], factor: i32) -> Self {
        let mut codes = [0; 32];
        let scale = quantize_block(x, &mut codes);
        Self { codes, scale, sum: factor * total(&codes) }
    }
}

impl Coded for Block256 {
    #[inline(always)]
    fn new(x: &[f32], factor: i32) -> Self {
        let mut codes = [0; 256];
        let scale = quantize_block(x, &mut codes);
        let (mut sums, mut pairs) = ([0; 16], [0; 4]);
        for (codes, sum) in codes.chunks_exact(16).zip(&mut sums) {
            *sum = factor * total(codes);
        }
        for (i, pair) in pairs.iter_mut().enumerate() {
            let [low, high] = [0, 64].map(|at| total(&codes[128 * (i / 2) + 32 * (i % 2) + at..][..32]));
            *pair = low & 0xffff | high << 16;
        }
        Self { codes, scale, pairs, sums }
    }
}

/// Columns that a thread codes at a time.
const PART: usize = 1 << 16;

fn coded<B: Coded>(x: &[f32], factor: i32, isa: Isa, pool: &Pool) -> Vec<B> {
    let count = x.len() / B::COLS;
    let mut blocks = Vec::with_capacity(count);
    let parts: Vec<_> =
        blocks.spare_capacity_mut()[..count].chunks_mut(PART / B::COLS).zip(x.chunks(PART)).map(Mutex::new).collect();
    pool.run(parts.len(), &|i| {
        // Each part is locked once; the lock only proves it to the compiler.
        let (blocks, x) = &mut *parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        isa.dispatch(Code { x, factor, blocks });
    });
    drop(parts);
    // SAFETY: the parts have written every block.
    unsafe { blocks.set_len(count) };
    blocks
}

/// Codes `x` into `blocks`, all of them.
struct Code<'a, B> {
    x: &'a [f32],
    factor: i32,
    blocks: &'a mut [MaybeUninit<B>],
}

impl<B: Coded> Kernel for Code<'_, B> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        assert_eq!(self.x.len(), self.blocks.len() * B::COLS);
        for (x, block) in self.x.chunks_exact(B::COLS).zip(self.blocks) {
            block.write(B::new(x, self.factor));
        }
    }
}

/// Adding it rounds a float under 2²² to an integer, ties to even, in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// Largest magnitude that is taken for zero: its scale would be a denormal.
const TINY: f32 = f32::from_bits(27 << 23); // 2⁻¹⁰⁰

/// Codes a block: scale = largest magnitude / 127, code = round(x · (127 / largest magnitude)). A block of tiny values is zero;
/// one that holds a NaN or an infinity has the scale NaN and codes of 0.
#[inline(always)]
pub(crate) fn quantize_block(x: &[f32], codes: &mut [i8]) -> f32 {
    // The order of magnitudes is that of their bits, and NaNs come last.
    let largest = f32::from_bits(x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff)));
    if largest < TINY || !largest.is_finite() {
        codes.fill(0);
        return if largest < TINY { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse + ROUND).to_bits() as i8;
    }
    largest / 127.0
}

#[inline(always)]
fn total(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}
