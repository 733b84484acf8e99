//! Matrix products: how they are cut into tiles, and which kernel computes a tile.
//!
//! A tile is two panels times a few tokens. Each sum belongs to one row and one token and runs over the columns in order,
//! so no tile's shape shows in the result.

mod blocks;
mod floats;
mod superblocks;

use crate::activations::{Activations, Coding, Quantize, Token};
use crate::pool::Pool;
use crate::rows::write;
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::{Isa, Matrix};
use coffer_checkpoint::DType;

/// Panels of a tile.
const PANELS: usize = 2;
/// Tokens whose activations are kept in cache while panels pass by.
const TOKENS_IN_CACHE: usize = 160;
/// Bytes of panels that a thread takes at a time.
const PART_BYTES: usize = 128 << 10;
/// Products smaller than this (in multiplications) are not worth another thread's attention.
const SMALL: usize = 1 << 16;

/// `ys[i] = ws[i] · x`, see [`crate::Cpu::matmul`].
pub(crate) fn matmul(isa: Isa, pool: &Pool, ws: &[&Matrix], x: &[f32], tokens: usize, ys: &mut [&mut [f32]]) {
    if x.is_empty() {
        return ys.iter_mut().for_each(|y| y.fill(0.0));
    }
    let activations = quantize(isa, pool, ws, x, tokens);
    let parts: Vec<Part<'_>> = ws
        .iter()
        .zip(ys)
        .flat_map(|(w, y)| {
            let input = match coding(w.dtype()) {
                None => Input::Floats(x),
                Some(coding) => activations.iter().find(|a| a.coding == coding).map_or(Input::Floats(x), Input::Codes),
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
fn quantize(isa: Isa, pool: &Pool, ws: &[&Matrix], x: &[f32], tokens: usize) -> Vec<Activations> {
    let cols = x.len() / tokens;
    let mut all: Vec<Activations> = Vec::new();
    for coding in ws.iter().filter_map(|w| coding(w.dtype())) {
        if all.iter().any(|a| a.coding == coding) {
            continue;
        }
        let mut activations = Activations::new(coding, tokens, cols);
        let step = (SMALL / cols).clamp(1, tokens);
        let parts: Vec<_> = activations.parts(step).into_iter().map(std::sync::Mutex::new).collect();
        pool.run(parts.len(), &|i| {
            let x = &x[i * step * cols..((i + 1) * step).min(tokens) * cols];
            // Each part is locked once; the lock only proves it to the compiler.
            let part = &mut *parts[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            isa.dispatch(Quantize { x, part });
        });
        drop(parts);
        all.push(activations);
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

/// An even number, so that there are several parts for each thread unless they would be tiny.
fn panels_of_a_part(w: &Matrix, threads: usize, tokens: usize) -> usize {
    if threads == 1 || w.rows() * w.cols() * tokens < SMALL {
        return w.panel_count().max(PANELS);
    }
    let fair = w.panel_count() / (4 * threads);
    let cached = PART_BYTES / w.panel_bytes().max(1);
    fair.min(cached).next_multiple_of(PANELS).max(PANELS)
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
            DType::Q4_0 => self.codes::<S, blocks::Blocks<blocks::Q4<false>>>(),
            DType::Q4_1 => self.codes::<S, blocks::Blocks<blocks::Q4<true>>>(),
            DType::Q5_0 => self.codes::<S, blocks::Blocks<blocks::Q5<false>>>(),
            DType::Q5_1 => self.codes::<S, blocks::Blocks<blocks::Q5<true>>>(),
            DType::Q8_0 => self.codes::<S, blocks::Blocks<blocks::Q8>>(),
            DType::IQ4_NL => self.codes::<S, blocks::Blocks<blocks::Iq4>>(),
            DType::Q4_K => self.codes::<S, superblocks::Super<superblocks::Q4>>(),
            DType::Q5_K => self.codes::<S, superblocks::Super<superblocks::Q5>>(),
            DType::Q6_K => self.codes::<S, superblocks::Super<superblocks::Q6>>(),
            DType::Q3_K => self.codes::<S, superblocks::Super<superblocks::Q3>>(),
            DType::Q2_K => self.codes::<S, superblocks::Super<superblocks::Q2>>(),
            DType::IQ4_XS => self.codes::<S, superblocks::Super<superblocks::Iq4>>(),
            other => unreachable!("{other} is not packed"),
        }
    }
}

/// A weight format: how a tile of two panels and `T` tokens is computed.
trait Format {
    /// What a token's activations are to the kernel.
    type Token: Copy;
    /// The sums of `T` tokens with the rows of two panels.
    ///
    /// # Safety
    /// Each panel must hold `cols` columns of this format and each token as many activations.
    unsafe fn tile<S: Simd, const T: usize>(
        panels: [*const u8; PANELS],
        cols: usize,
        tokens: [Self::Token; T],
    ) -> [[S::F; T]; PANELS];
}

impl Part<'_> {
    #[inline(always)]
    fn floats<S: Simd, W: Format<Token = *const f32>>(self) {
        if let Input::Floats(x) = self.input {
            self.tiles::<S, W>(|t| x[t * self.w.cols()..][..self.w.cols()].as_ptr());
        }
    }

    #[inline(always)]
    fn codes<S: Simd, W: Format<Token = Token>>(self) {
        if let Input::Codes(activations) = self.input {
            self.tiles::<S, W>(|t| activations.token(t));
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, W: Format>(self, token: impl Fn(usize) -> W::Token) {
        for start in (0..self.tokens).step_by(TOKENS_IN_CACHE) {
            let end = (start + TOKENS_IN_CACHE).min(self.tokens);
            for pair in (self.first..self.end).step_by(PANELS) {
                let mut t = start;
                while S::WIDE && t + 5 <= end {
                    self.tile::<S, W, 5>(pair, t, &token);
                    t += 5;
                }
                while t + 2 <= end {
                    self.tile::<S, W, 2>(pair, t, &token);
                    t += 2;
                }
                if t < end {
                    self.tile::<S, W, 1>(pair, t, &token);
                }
            }
        }
    }

    /// Computes the tile of panels `pair` and `pair + 1` and tokens `t..t + T`.
    #[inline(always)]
    fn tile<S: Simd, W: Format, const T: usize>(self, pair: usize, t: usize, token: &impl Fn(usize) -> W::Token) {
        let (rows, size) = (self.w.rows(), self.w.panel_bytes());
        let panels = &self.w.panels()[pair * size..][..PANELS * size];
        let panels = std::array::from_fn(|p| panels[p * size..].as_ptr());
        let mut tokens = [token(t); T];
        for i in 1..T {
            tokens[i] = token(t + i);
        }
        // SAFETY: the panels and the tokens are those of a matrix of `cols` columns, which `matmul` has checked.
        let sums = unsafe { W::tile::<S, T>(panels, self.w.cols(), tokens) };
        for p in 0..PANELS {
            let row = (pair + p) * LANES;
            let filled = rows.saturating_sub(row).min(LANES);
            for i in 0..T {
                // SAFETY: no other part has these rows.
                let y = unsafe { self.y.slice((t + i) * rows + row.min(rows), filled) };
                write::<S>(y, 0, sums[p][i]);
            }
        }
    }
}
