//! Matrix products: how they are cut into tiles, and which kernel computes a tile.
//!
//! A tile is a few panels times a few tokens. Each sum belongs to one row and one token and runs over the columns in order,
//! so no tile's shape shows in the result.

mod blocks;
mod codes;
mod floats;
mod superblocks;

use crate::activations::{Activations, Block32, Block256, Coding, Columns};
use crate::pool::Pool;
use crate::rows::write;
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::{Isa, Matrix};
use coffer_checkpoint::DType;

/// Panels of a tile with several tokens, which keep the registers busy.
const PANELS: usize = 2;
/// Panels of a tile with one token, which waits for memory: the more runs are read at a time, the more lines are on their way.
const PANELS_OF_ONE: usize = 4;
/// Bytes ahead of a kernel that are asked for, unless its format knows better.
const AHEAD: usize = 2304;
/// Tokens whose activations are kept in cache while panels pass by.
const TOKENS_IN_CACHE: usize = 160;
/// Bytes of panels that a thread takes at a time.
const PART_BYTES: usize = 128 << 10;
/// The same for a lone token: what is asked for past a part's end is mostly asked for in vain.
const PART_BYTES_OF_ONE: usize = 512 << 10;
/// Products smaller than this (in multiplications) are not worth another thread's attention.
const SMALL: usize = 1 << 16;

/// `ys[i] = ws[i] · x`, see [`crate::Cpu::matmul`].
pub(crate) fn matmul(isa: Isa, pool: &Pool, ws: &[&Matrix], x: &[f32], tokens: usize, ys: &mut [&mut [f32]]) {
    if x.is_empty() {
        return ys.iter_mut().for_each(|y| y.fill(0.0));
    }
    let activations = quantize(isa, pool, ws, x);
    let parts: Vec<Part<'_>> = ws
        .iter()
        .zip(ys)
        .flat_map(|(w, y)| {
            let input = match coding(w.dtype()) {
                None => Input::Floats(x),
                Some(coding) => activations.iter().find(|a| a.coding() == coding).map_or(Input::Floats(x), Input::Codes),
            };
            let y = Shared::new(y);
            let step = panels_of_a_part(w, pool.threads(), tokens);
            (0..w.panel_count()).step_by(step).map(move |first| Part {
                w,
                first,
                end: (first + step).min(w.panel_count()),
                input,
                tokens,
                y,
            })
        })
        .collect();
    pool.run(parts.len(), &|i| isa.dispatch(parts[i]));
}

/// The activations in every coding that `ws` ask for.
fn quantize(isa: Isa, pool: &Pool, ws: &[&Matrix], x: &[f32]) -> Vec<Activations> {
    let mut all: Vec<Activations> = Vec::new();
    for coding in ws.iter().filter_map(|w| coding(w.dtype())) {
        if all.iter().all(|a| a.coding() != coding) {
            all.push(Activations::new(coding, x, isa, pool));
        }
    }
    all
}

/// How a format wants its activations; `None`: as floats.
fn coding(dtype: DType) -> Option<Coding> {
    match dtype {
        DType::Q4_0 => Some(Coding::Blocks { factor: -8 }),
        DType::Q5_0 => Some(Coding::Blocks { factor: -16 }),
        DType::Q8_0 | DType::IQ4_NL => Some(Coding::Blocks { factor: -128 }),
        DType::Q4_1 | DType::Q5_1 => Some(Coding::Blocks { factor: 1 }),
        DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::Q3_K | DType::Q2_K | DType::IQ4_XS => Some(Coding::Superblocks),
        _ => None,
    }
}

/// Whole tiles of a lone token, so that there are several parts for each thread unless they would be tiny.
fn panels_of_a_part(w: &Matrix, threads: usize, tokens: usize) -> usize {
    if threads == 1 || w.rows() * w.cols() * tokens < SMALL {
        return w.panel_count().max(1);
    }
    let fair = w.panel_count() / (4 * threads);
    let bytes = if tokens == 1 { PART_BYTES_OF_ONE } else { PART_BYTES };
    let cached = bytes / w.panel_bytes().max(1);
    fair.min(cached).next_multiple_of(PANELS_OF_ONE).max(PANELS_OF_ONE)
}

#[derive(Clone, Copy)]
enum Input<'a> {
    Floats(&'a [f32]),
    Codes(&'a Activations),
}

/// Some panels of one matrix with all tokens.
#[derive(Clone, Copy)]
struct Part<'a> {
    w: &'a Matrix,
    /// Panels `first..end`, an even number.
    first: usize,
    end: usize,
    input: Input<'a>,
    tokens: usize,
    y: Shared<'a>,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.w.dtype() {
            DType::F32 => self.floats::<S, floats::Floats<floats::F32>>(),
            DType::F16 => self.floats::<S, floats::Floats<floats::F16>>(),
            DType::BF16 => self.floats::<S, floats::Floats<floats::Bf16>>(),
            DType::Q4_0 => self.blocks::<S, blocks::Blocks<blocks::Q4<false>>>(),
            DType::Q4_1 => self.blocks::<S, blocks::Blocks<blocks::Q4<true>>>(),
            DType::Q5_0 => self.blocks::<S, blocks::Blocks<blocks::Q5<false>>>(),
            DType::Q5_1 => self.blocks::<S, blocks::Blocks<blocks::Q5<true>>>(),
            DType::Q8_0 => self.blocks::<S, blocks::Blocks<blocks::Q8>>(),
            DType::IQ4_NL => self.blocks::<S, blocks::Blocks<blocks::Iq4>>(),
            DType::Q4_K => self.superblocks::<S, superblocks::Super<superblocks::Q4>>(),
            DType::Q5_K => self.superblocks::<S, superblocks::Super<superblocks::Q5>>(),
            DType::Q6_K => self.superblocks::<S, superblocks::Super<superblocks::Q6>>(),
            DType::Q3_K => self.superblocks::<S, superblocks::Super<superblocks::Q3>>(),
            DType::Q2_K => self.superblocks::<S, superblocks::Super<superblocks::Q2>>(),
            DType::IQ4_XS => self.superblocks::<S, superblocks::Super<superblocks::Iq4>>(),
            other => unreachable!("{other} is not packed"),
        }
    }
}

/// A weight format: how a tile of `P` panels, which follow one another, and `T` tokens is computed.
trait Format {
    type Columns: Columns;
    /// The sums of the tokens with the rows of the panels.
    ///
    /// # Safety
    /// Each panel must hold `cols` columns of this format and each token as many activations.
    unsafe fn tile<S: Simd, const P: usize, const T: usize>(
        panels: [*const u8; P],
        cols: usize,
        tokens: [*const Self::Columns; T],
    ) -> [[S::F; T]; P];
}

/// What a tile of `T` tokens asks for while it reads `at` bytes after the beginnings of its panels, of `size` bytes each: what
/// it reads `distance` bytes later. A lone token goes on past the ends, in the panels that the next tile has in their places;
/// with more tokens there is less to wait for, and no register to spare.
#[inline(always)]
fn ahead<const P: usize, const T: usize>(mut panels: [*const u8; P], at: usize, distance: usize, size: usize) -> [*const u8; P] {
    let at = at + distance;
    let at = if T > 1 || at < size { at } else { at + (P - 1) * size };
    for p in 0..P {
        panels[p] = panels[p].wrapping_add(at);
    }
    panels
}

/// Asks for the line at `next`, unless the tile has tokens enough to compute until it comes by itself.
#[inline(always)]
fn ask<S: Simd, const T: usize>(next: *const u8) {
    if T < 5 {
        S::prefetch(next);
    }
}

impl Part<'_> {
    #[inline(always)]
    fn floats<S: Simd, W: Format<Columns = f32>>(self) {
        if let Input::Floats(x) = self.input {
            self.tiles::<S, W>(x);
        }
    }

    #[inline(always)]
    fn blocks<S: Simd, W: Format<Columns = Block32>>(self) {
        if let Input::Codes(Activations::Blocks { blocks, .. }) = self.input {
            self.tiles::<S, W>(blocks);
        }
    }

    #[inline(always)]
    fn superblocks<S: Simd, W: Format<Columns = Block256>>(self) {
        if let Input::Codes(Activations::Superblocks(blocks)) = self.input {
            self.tiles::<S, W>(blocks);
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, W: Format>(self, x: &[W::Columns]) {
        assert_eq!(x.len() * <W::Columns>::COLS, self.tokens * self.w.cols());
        let mut first = self.first;
        while S::FOUR_RUNS && self.tokens == 1 && first + PANELS_OF_ONE <= self.end {
            self.tile::<S, W, PANELS_OF_ONE, 1>(first, 0, x);
            first += PANELS_OF_ONE;
        }
        for start in (0..self.tokens).step_by(TOKENS_IN_CACHE) {
            let end = (start + TOKENS_IN_CACHE).min(self.tokens);
            for first in (first..self.end).step_by(PANELS) {
                let mut t = start;
                while t < end {
                    t += match end - t {
                        1 => self.tile::<S, W, PANELS, 1>(first, t, x),
                        4 | 6 | 8 if S::WIDE => self.tile::<S, W, PANELS, 4>(first, t, x),
                        5.. if S::WIDE => self.tile::<S, W, PANELS, 5>(first, t, x),
                        _ => self.tile::<S, W, PANELS, 2>(first, t, x),
                    };
                }
            }
        }
    }

    /// Computes the tile of panels `first..first + P` and tokens `t..t + T`; returns `T`.
    #[inline(always)]
    fn tile<S: Simd, W: Format, const P: usize, const T: usize>(self, first: usize, t: usize, x: &[W::Columns]) -> usize {
        let (rows, size) = (self.w.rows(), self.w.panel_bytes());
        let panels = &self.w.panels()[first * size..][..P * size];
        let panels = std::array::from_fn(|p| panels[p * size..].as_ptr());
        let mut tokens = [x.as_ptr(); T];
        for i in 0..T {
            tokens[i] = x.as_ptr().wrapping_add((t + i) * (self.w.cols() / <W::Columns>::COLS));
        }
        // SAFETY: the panels and the tokens are those of a matrix of `cols` columns, which `matmul` has checked.
        let sums = unsafe { W::tile::<S, P, T>(panels, self.w.cols(), tokens) };
        for p in 0..P {
            let row = (first + p) * LANES;
            let filled = rows.saturating_sub(row).min(LANES);
            for i in 0..T {
                // SAFETY: no other part has these rows.
                let y = unsafe { self.y.slice((t + i) * rows + row.min(rows), filled) };
                write::<S>(y, 0, sums[p][i]);
            }
        }
        T
    }
}
