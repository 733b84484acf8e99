//! The operations of a forward pass on one instruction set and one pool of threads.
//!
//! Every result depends on the inputs and the contract alone: never on the ISA, the threads or the other rows in the batch.

use crate::{Isa, Matrix};

/// An instruction set and a pool of threads.
pub struct Cpu {
    isa: Isa,
}

/// Cosines and sines of rotary embedding for positions `0..len`, built under the contract.
pub struct RopeTable;

impl RopeTable {
    /// `frequencies[i]` radians a position for pair `i`; `frequencies.len() * 2` is the head width.
    pub fn new(frequencies: &[f64], positions: usize) -> Self {
        let _ = (frequencies, positions);
        todo!()
    }
}

/// One sequence's part of an attention step.
pub struct AttentionTask<'a> {
    /// Queries of this sequence's new tokens, `[tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// Cached keys `[kv_heads, capacity, head_dim]`; the first `past + tokens` positions are filled.
    pub k: &'a [f32],
    /// Cached values, same layout.
    pub v: &'a [f32],
    /// Positions that the cache can hold: the stride between heads.
    pub capacity: usize,
    /// Positions before the first new token.
    pub past: usize,
    /// New tokens.
    pub tokens: usize,
    /// Output, `[tokens, heads, head_dim]`.
    pub out: &'a mut [f32],
}

/// Head counts shared by all sequences of a step.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Attend to the last so many positions only.
    pub window: Option<usize>,
}

impl Cpu {
    /// A pool of `threads` (at least one; the caller is one of them) on `isa`.
    pub fn new(isa: Isa, threads: usize) -> Self {
        let _ = threads;
        Self { isa }
    }
    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// Threads in the pool.
    pub fn threads(&self) -> usize {
        todo!()
    }
    /// `ys[i] = ws[i] · x` for matrices that share their input. `x` `[tokens, cols]`, each `y` `[tokens, rows]`.
    /// Activations are quantized once per activation format in use.
    pub fn matmul(&self, ws: &[&Matrix], x: &[f32], tokens: usize, ys: &mut [&mut [f32]]) {
        let _ = (ws, x, tokens, ys);
        todo!()
    }
    /// RMS norm of each row of `x` `[tokens, weight.len()]` into `out`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let _ = (x, weight, eps, out);
        todo!()
    }
    /// Rotates each head of `x` `[tokens, heads, head_dim]` in place; pairs are `(i, i + head_dim/2)`.
    pub fn rope(&self, x: &mut [f32], heads: usize, table: &RopeTable, positions: &[u32]) {
        let _ = (x, heads, table, positions);
        todo!()
    }
    /// `gate = silu(gate) * up`.
    pub fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        let _ = (gate, up);
        todo!()
    }
    /// `x += y`, where `y` may be one row repeated (a bias) or as long as `x` (a residual).
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        let _ = (x, y);
        todo!()
    }
    /// Causal attention with grouped key-value heads for several sequences at once.
    pub fn attention(&self, shape: AttentionShape, tasks: &mut [AttentionTask<'_>]) {
        let _ = (shape, tasks);
        todo!()
    }
    /// Natural logarithms of the softmax of each row of `logits` `[n, width]`, in place.
    pub fn log_softmax(&self, logits: &mut [f32], width: usize) {
        let _ = (logits, width);
        todo!()
    }
}
