//! Activations as codes of eight bits, one scale for each block.

use crate::simd::{Kernel, Simd};

/// How a weight format wants its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Blocks of 32; `sums` holds `factor` times the sum of each block's codes.
    Blocks { factor: i32 },
    /// Blocks of 256; `sums` holds −32 times the sum of every 16 codes, `pairs` the sums of every 32 as 16-bit halves:
    /// those of columns (0, 64), (32, 96), (128, 192), (160, 224).
    Superblocks,
}

impl Coding {
    pub(crate) fn block(self) -> usize {
        match self {
            Coding::Blocks { .. } => 32,
            Coding::Superblocks => 256,
        }
    }
    fn sums(self) -> usize {
        match self {
            Coding::Blocks { .. } => 1,
            Coding::Superblocks => 16,
        }
    }
    fn pairs(self) -> usize {
        match self {
            Coding::Blocks { .. } => 0,
            Coding::Superblocks => 4,
        }
    }
}

/// Coded activations of some tokens, `[tokens, …]` each.
pub(crate) struct Activations {
    pub(crate) coding: Coding,
    cols: usize,
    /// Of one token.
    blocks: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    pairs: Vec<i32>,
}

/// One token's part. Kernels index it unchecked: `codes` has whole blocks, the others their fixed number for each.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    pub(crate) codes: *const i8,
    pub(crate) scales: *const f32,
    pub(crate) sums: *const i32,
    pub(crate) pairs: *const i32,
}

impl Activations {
    /// Room for `tokens` of `cols`, whole blocks.
    pub(crate) fn new(coding: Coding, tokens: usize, cols: usize) -> Self {
        let blocks = cols / coding.block();
        Self {
            coding,
            cols,
            blocks,
            codes: vec![0; tokens * cols],
            scales: vec![0.0; tokens * blocks],
            sums: vec![0; tokens * blocks * coding.sums()],
            pairs: vec![0; tokens * blocks * coding.pairs()],
        }
    }

    /// Splits into parts of `tokens` that can be filled apart.
    pub(crate) fn parts(&mut self, tokens: usize) -> Vec<Part<'_>> {
        let (coding, blocks) = (self.coding, tokens * self.blocks);
        let mut pairs = self.pairs.chunks_mut((blocks * coding.pairs()).max(1));
        self.codes
            .chunks_mut(tokens * self.cols)
            .zip(self.scales.chunks_mut(blocks))
            .zip(self.sums.chunks_mut(blocks * coding.sums()))
            .map(|((codes, scales), sums)| Part { coding, codes, scales, sums, pairs: pairs.next().unwrap_or_default() })
            .collect()
    }

    /// The part of token `t`, which there must be: each tile asks for several, so that it is not checked.
    #[inline(always)]
    pub(crate) fn token(&self, t: usize) -> Token {
        debug_assert!((t + 1) * self.cols <= self.codes.len());
        let block = t * self.blocks;
        Token {
            codes: self.codes.as_ptr().wrapping_add(t * self.cols),
            scales: self.scales.as_ptr().wrapping_add(block),
            sums: self.sums.as_ptr().wrapping_add(block * self.coding.sums()),
            pairs: self.pairs.as_ptr().wrapping_add(block * self.coding.pairs()),
        }
    }
}

/// Some tokens' share of [`Activations`].
pub(crate) struct Part<'a> {
    coding: Coding,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    pairs: &'a mut [i32],
}

/// Codes `x` into `part`, whose tokens it holds.
pub(crate) struct Quantize<'a, 'b> {
    pub(crate) x: &'a [f32],
    pub(crate) part: &'a mut Part<'b>,
}

impl Kernel for Quantize<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { coding, codes, scales, sums, pairs } = self.part;
        let block = coding.block();
        for ((x, codes), scale) in self.x.chunks_exact(block).zip(codes.chunks_exact_mut(block)).zip(scales.iter_mut()) {
            *scale = quantize_block(x, codes);
        }
        match coding {
            Coding::Blocks { factor } => {
                for (codes, sum) in codes.chunks_exact(32).zip(sums.iter_mut()) {
                    *sum = *factor * total(codes);
                }
            }
            Coding::Superblocks => {
                for (codes, sum) in codes.chunks_exact(16).zip(sums.iter_mut()) {
                    *sum = -32 * total(codes);
                }
                for (codes, pair) in codes.chunks_exact(128).zip(pairs.chunks_exact_mut(2)) {
                    for (half, pair) in pair.iter_mut().enumerate() {
                        let [low, high] = [0, 64].map(|at| total(&codes[at + 32 * half..][..32]));
                        *pair = low & 0xffff | high << 16;
                    }
                }
            }
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
