//! The operations of a forward pass on one instruction set and one pool of threads.
//!
//! Every result depends on the inputs and the contract alone: never on the ISA, the threads or the other rows in the batch.
//! Lengths that contradict each other are the caller's mistake and panic.

use crate::attention;
pub use crate::attention::{AttentionShape, AttentionTask};
use crate::pool::Pool;
pub use crate::rope::RopeTable;
use crate::router::{self, Weigh};
use crate::rows::{Add, AddScaled, Geglu, LogSoftmax, RmsNorm, RmsNormInPlace, Rotate, Scale, Sigmoid, Softcap, Swiglu};
use crate::shared::Shared;
use crate::{Isa, Matrix, product};
use std::ops::Range;

/// An instruction set and a pool of threads.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
}

impl Cpu {
    /// A pool of `threads` (at least one; the caller is one of them) on `isa`. Threads that the system refuses are done without.
    ///
    /// # Panics
    /// If this machine lacks `isa`.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(isa.is_available(), "this machine lacks {}", isa.name());
        Self { isa, pool: Pool::new(threads) }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in the pool.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `ys[i] = ws[i] · x` for matrices that share their input. `x` `[tokens, cols]`, each `y` `[tokens, rows]`.
    /// Activations are quantized once per activation format in use.
    pub fn matmul(&self, ws: &[&Matrix], x: &[f32], tokens: usize, ys: &mut [&mut [f32]]) {
        assert_eq!(ws.len(), ys.len(), "matrices and outputs");
        for (w, y) in ws.iter().zip(ys.iter()) {
            assert_eq!(Some(x.len()), tokens.checked_mul(w.cols()), "{w:?} times {tokens} tokens");
            assert_eq!(Some(y.len()), tokens.checked_mul(w.rows()), "{w:?} times {tokens} tokens");
        }
        product::matmul(self.isa, &self.pool, ws, x, tokens, ys);
    }

    /// RMS norm of each row of `x` `[tokens, weight.len()]` into `out`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        self.parts(out, x.len(), weight.len(), |at, out| self.isa.dispatch(RmsNorm { x: &x[at], weight, eps, out }));
    }

    /// RMS norm of each row of `x` `[n, weight.len()]` in place: of each head, where rows are heads.
    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[f32], eps: f32) {
        let len = x.len();
        self.parts(x, len, weight.len(), |_, x| self.isa.dispatch(RmsNormInPlace { x, weight, eps }));
    }

    /// Rotates each head of `x` `[tokens, heads, head_dim]` in place; pairs are `(i, i + head_dim/2)`.
    ///
    /// # Panics
    /// Also if a position is not in the table.
    pub fn rope(&self, x: &mut [f32], heads: usize, table: &RopeTable, positions: &[u32]) {
        let width = 2 * table.pairs() * heads;
        assert_eq!(x.len(), positions.len() * width, "{heads} heads of {} at {} positions", 2 * table.pairs(), positions.len());
        let (len, x) = (x.len(), Shared::new(x));
        self.rows(len, width, |at| {
            for token in at.start / width..at.end / width {
                let (cos, sin) = table.angles(positions[token]);
                // SAFETY: ranges of rows are disjoint.
                let row = unsafe { x.slice(token * width, width) };
                row.chunks_exact_mut(2 * table.pairs()).for_each(|head| self.isa.dispatch(Rotate { head, cos, sin }));
            }
        });
    }

    /// `gate = silu(gate) * up`.
    pub fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        self.parts(gate, up.len(), 1, |at, gate| self.isa.dispatch(Swiglu { gate, up: &up[at] }));
    }

    /// `gate = gelu(gate) * up`, where gelu is approximated by tanh (Hendrycks and Gimpel, arXiv:1606.08415).
    pub fn geglu(&self, gate: &mut [f32], up: &[f32]) {
        self.parts(gate, up.len(), 1, |at, gate| self.isa.dispatch(Geglu { gate, up: &up[at] }));
    }

    /// `x = bound * tanh(x / bound)`.
    pub fn softcap(&self, x: &mut [f32], bound: f32) {
        let len = x.len();
        self.parts(x, len, 1, |_, x| self.isa.dispatch(Softcap { x, bound }));
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        let len = x.len();
        self.parts(x, len, 1, |_, x| self.isa.dispatch(Scale { x, factor }));
    }

    /// `x += y`, where `y` may be one row repeated (a bias) or as long as `x` (a residual).
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        let len = x.len();
        let x = Shared::new(whole_rows(x, y.len(), len));
        let one_row = len == y.len();
        self.rows(len, if one_row { 1 } else { y.len() }, |at| {
            if one_row {
                // SAFETY: ranges are disjoint.
                let x = unsafe { x.slice(at.start, at.len()) };
                return self.isa.dispatch(Add { x, y: &y[at] });
            }
            for start in at.step_by(y.len()) {
                // SAFETY: ranges of rows are disjoint.
                let x = unsafe { x.slice(start, y.len()) };
                self.isa.dispatch(Add { x, y });
            }
        });
    }

    /// `x += weight · y`, of equal length.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], weight: f32) {
        self.parts(x, y.len(), 1, |at, x| self.isa.dispatch(AddScaled { x, y: &y[at], weight }));
    }

    /// `1 / (1 + e^−x)`, in place.
    pub fn sigmoid(&self, x: &mut [f32]) {
        let len = x.len();
        self.parts(x, len, 1, |_, x| self.isa.dispatch(Sigmoid(x)));
    }

    /// Chooses the `chosen` experts with the largest of `logits` `[tokens, experts]` for each token, of equals those with the lower
    /// number; NaN is below everything. `each` is told token, expert and weight, tokens in order and the experts of each in order. A weight
    /// is e^(logit − largest) divided by the sum of those of all experts, in lanes; if `normalized`, of those chosen, in order.
    /// `logits` are overwritten.
    ///
    /// # Panics
    /// If none are to be chosen, or more than there are.
    pub fn route(
        &self,
        logits: &mut [f32],
        experts: usize,
        chosen: usize,
        normalized: bool,
        mut each: impl FnMut(usize, usize, f32),
    ) {
        assert!((1..=experts).contains(&chosen), "{chosen} of {experts} experts");
        let choices = router::choose(logits, experts, chosen);
        let len = logits.len();
        self.parts(logits, len, experts, |at, rows| {
            let choices = &choices[at.start / experts * chosen..at.end / experts * chosen];
            self.isa.dispatch(Weigh { rows, experts, choices, chosen, normalized });
        });
        for (token, (row, choices)) in logits.chunks_exact(experts).zip(choices.chunks_exact(chosen)).enumerate() {
            choices.iter().for_each(|&expert| each(token, expert, row[expert]));
        }
    }

    /// Causal attention with grouped key-value heads for several sequences at once.
    pub fn attention(&self, shape: AttentionShape, tasks: &mut [AttentionTask<'_>]) {
        attention::attention(self.isa, &self.pool, shape, tasks);
    }

    /// Natural logarithms of the softmax of each row of `logits` `[n, width]`, in place.
    pub fn log_softmax(&self, logits: &mut [f32], width: usize) {
        let len = logits.len();
        self.parts(logits, len, width, |_, rows| self.isa.dispatch(LogSoftmax { rows, width }));
    }

    /// Cuts `out`, which must be `len` long and whole rows of `width`, and calls `f` with each range and what is there, on several threads
    /// if that pays.
    fn parts(&self, out: &mut [f32], len: usize, width: usize, f: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let out = Shared::new(whole_rows(out, width, len));
        self.rows(len, width, |at| {
            // SAFETY: ranges are disjoint.
            let part = unsafe { out.slice(at.start, at.len()) };
            f(at, part);
        });
    }

    /// Cuts `0..len` into ranges of whole rows and calls `f` with each, on several threads if that pays.
    fn rows(&self, len: usize, width: usize, f: impl Fn(Range<usize>) + Sync) {
        /// Elements that are worth handing to another thread.
        const WORTHWHILE: usize = 8192;
        if len == 0 {
            return;
        }
        let step = WORTHWHILE.next_multiple_of(width);
        self.pool.run(len.div_ceil(step), &|i| f(i * step..((i + 1) * step).min(len)));
    }
}

/// `buffer`, once it is known to be `len` long and whole rows of `width`.
fn whole_rows(buffer: &mut [f32], width: usize, len: usize) -> &mut [f32] {
    assert!(buffer.len() == len && (len == 0 || width > 0 && len.is_multiple_of(width)), "{len} in {} of {width}", buffer.len());
    buffer
}
