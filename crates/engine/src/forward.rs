//! The forward pass: all spans of all sequences go through a layer together.

use crate::{
    Engine, EngineError, Span, Want,
    error::grow,
    mixture::Mixture,
    observe::{Nobody, Observer, Watch},
    runner::Runner,
};
use coffer_kernels::cpu::{AttentionTask, RopeTable};

/// Tokens that go through the layers together, at most: bounds the workspace.
pub(crate) const PASS: usize = 512;

/// Logits that are computed together, at most, unless one row alone is longer.
const LOGITS: usize = 1 << 22;

/// Buffers of a pass, kept between passes.
#[derive(Default)]
pub(crate) struct Workspace {
    /// Residual stream, `[tokens, hidden]`.
    pub(crate) x: Vec<f32>,
    /// Normalized input of a product, `[tokens, hidden]`.
    pub(crate) h: Vec<f32>,
    /// What a block adds to the stream, `[tokens, hidden]`.
    pub(crate) y: Vec<f32>,
    /// Queries, `[tokens, heads, head_dim]`.
    pub(crate) q: Vec<f32>,
    /// New keys and values, `[tokens, kv_heads, head_dim]`.
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// Attention's output, `[tokens, heads, head_dim]`.
    pub(crate) a: Vec<f32>,
    /// `[tokens, ffn]`.
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// Of a mixture of experts.
    pub(crate) mixture: Mixture,
    /// `[wanted tokens of a piece, vocab]`.
    logits: Vec<f32>,
    /// Position of each token in its sequence.
    pub(crate) positions: Vec<u32>,
    pub(crate) rope: Option<Rope>,
}

/// Sines and cosines.
pub(crate) struct Rope {
    table: RopeTable,
    /// Of layers with a window, where they have their own.
    window: Option<RopeTable>,
    /// Positions that they cover.
    covered: usize,
}

impl Rope {
    pub(crate) fn of(&self, window: bool) -> &RopeTable {
        self.window.as_ref().filter(|_| window).unwrap_or(&self.table)
    }
}

/// A part of a span that goes through the layers in one pass.
pub(crate) struct Piece {
    /// Which span.
    pub(crate) span: usize,
    /// First token of the span.
    start: usize,
    pub(crate) tokens: usize,
    /// Tokens at the end of the piece whose logits are wanted.
    wanted: usize,
}

impl Engine {
    /// Runs all spans together and returns their logits, `[wanted tokens, vocab]`, spans in order.
    /// A token's logits depend on its own sequence alone, to the bit.
    ///
    /// # Errors
    /// A span is empty, holds a token outside the vocabulary, does not fit into its cache, or memory ran out; the caches
    /// are then as they were.
    pub fn forward(&self, spans: &mut [Span<'_>]) -> Result<Vec<f32>, EngineError> {
        let wanted: usize = spans.iter().map(|s| s.want.tokens(s.tokens.len())).sum();
        let len = wanted.saturating_mul(self.config().vocab);
        let mut logits = Vec::new();
        let bytes = len.saturating_mul(size_of::<f32>());
        logits.try_reserve_exact(len).map_err(|_| EngineError::Memory { what: "logits", bytes })?;
        self.forward_each(spans, &mut |row| logits.extend_from_slice(row))?;
        Ok(logits)
    }

    /// Like [`Engine::forward`], but hands the logits `[vocab]` of each wanted token to `each` as they are made, so
    /// that the logits of a long text need not be held at once.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_each(&self, spans: &mut [Span<'_>], each: &mut dyn FnMut(&[f32])) -> Result<(), EngineError> {
        self.forward_observed(spans, &mut Nobody, each)
    }

    /// Like [`Engine::forward_each`], under the eyes of `observer`.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_observed(
        &self,
        spans: &mut [Span<'_>],
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&[f32]),
    ) -> Result<(), EngineError> {
        spans.iter().try_for_each(|span| self.check(span))?;
        spans.iter_mut().try_for_each(|s| s.cache.reserve(s.cache.len() + s.tokens.len()))?;
        let passes = passes(spans);
        let mut workspace = self.runner.workspace();
        let positions = spans.iter().map(|s| s.cache.len() + s.tokens.len()).max().unwrap_or(0);
        workspace.prepare(&self.runner, &passes, positions)?;
        passes.iter().for_each(|pass| self.pass(&mut workspace, spans, pass, observer, each));
        Ok(())
    }

    fn check(&self, span: &Span<'_>) -> Result<(), EngineError> {
        if span.tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        self.runner.check(span.tokens)?;
        if !span.cache.fits(self.config(), self.kv_format()) || span.cache.capacity() > self.context() {
            return Err(EngineError::ForeignCache);
        }
        let (wanted, context) = (span.cache.len().saturating_add(span.tokens.len()), span.cache.capacity());
        if wanted > context { Err(EngineError::Context { wanted, context }) } else { Ok(()) }
    }

    fn pass(
        &self,
        work: &mut Workspace,
        spans: &mut [Span<'_>],
        pieces: &[Piece],
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&[f32]),
    ) {
        let tokens = self.embed(work, spans, pieces);
        observer.residual(0, &work.x[..tokens * self.config().hidden]);
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let watch = &mut Watch { observer, layer: i, cached: i };
            self.runner.attend(work, layer, spans, pieces, tokens, watch);
            self.runner.feed_forward(work, layer, tokens, watch);
            observer.residual(i + 1, &work.x[..tokens * self.config().hidden]);
        }
        pieces.iter().for_each(|p| spans[p.span].cache.advance(p.tokens));
        self.emit(work, pieces, each);
    }

    /// Looks up the tokens of all pieces and notes their positions; returns how many there are.
    fn embed(&self, work: &mut Workspace, spans: &[Span<'_>], pieces: &[Piece]) -> usize {
        work.note_positions(spans, pieces);
        let mut row = 0;
        for piece in pieces {
            let rows = &mut work.x[row * self.config().hidden..(row + piece.tokens) * self.config().hidden];
            self.runner.embedded(
                &self.weights.embedding,
                &spans[piece.span].tokens[piece.start..piece.start + piece.tokens],
                rows,
            );
            row += piece.tokens;
        }
        row
    }

    /// Final norm and head of the wanted tokens.
    fn emit(&self, work: &mut Workspace, pieces: &[Piece], each: &mut dyn FnMut(&[f32])) {
        let hidden = self.config().hidden;
        let (mut end, mut wanted) = (0, 0);
        for piece in pieces {
            end += piece.tokens;
            let rows = (end - piece.wanted) * hidden..end * hidden;
            work.y[wanted * hidden..][..rows.len()].copy_from_slice(&work.x[rows]);
            wanted += piece.wanted;
        }
        let Workspace { y, h, logits, .. } = work;
        self.runner.head(
            (&self.weights.norm, self.weights.head()),
            &y[..wanted * hidden],
            &mut h[..wanted * hidden],
            logits,
            each,
        );
    }
}

impl Want {
    /// How many of `tokens` have their logits computed.
    fn tokens(self, tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

impl Workspace {
    pub(crate) fn note_positions(&mut self, spans: &[Span<'_>], pieces: &[Piece]) {
        self.positions.clear();
        for piece in pieces {
            let past = spans[piece.span].cache.len();
            self.positions.extend((past..past + piece.tokens).map(|p| p as u32));
        }
    }

    /// Makes every buffer long enough for the longest of `passes`, and the rotary table for `positions`.
    pub(crate) fn prepare(&mut self, runner: &Runner, passes: &[Vec<Piece>], positions: usize) -> Result<(), EngineError> {
        let most = |count: fn(&Piece) -> usize| passes.iter().map(|p| p.iter().map(count).sum()).max().unwrap_or(0);
        let (tokens, wanted): (usize, usize) = (most(|p| p.tokens), most(|p| p.wanted));
        let config = &runner.config;
        let (width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let widest = config.experts.iter().filter_map(|experts| experts.shared).fold(config.ffn, usize::max);
        self.mixture.prepare(config, tokens)?;
        for (buffer, rows, width) in [
            (&mut self.x, tokens, config.hidden),
            (&mut self.h, tokens, config.hidden),
            (&mut self.y, tokens, config.hidden),
            (&mut self.q, tokens, width),
            (&mut self.k, tokens, kv_width),
            (&mut self.v, tokens, kv_width),
            (&mut self.a, tokens, width),
            (&mut self.gate, tokens, widest),
            (&mut self.up, tokens, widest),
            (&mut self.logits, wanted.min(rows_of_logits(config.vocab)), config.vocab),
        ] {
            grow(buffer, rows.saturating_mul(width), "a forward pass")?;
        }
        if self.rope.as_ref().is_none_or(|rope| rope.covered < positions) {
            let covered = positions.next_power_of_two().max(PASS);
            let (frequencies, window) = &runner.frequencies;
            let table = |frequencies: &Vec<f64>| RopeTable::new(frequencies, covered);
            self.rope = Some(Rope { table: table(frequencies), window: window.as_ref().map(table), covered });
        }
        Ok(())
    }
}

/// Cuts the spans into passes of at most `PASS` tokens, spans in order.
pub(crate) fn passes(spans: &[Span<'_>]) -> Vec<Vec<Piece>> {
    let (mut passes, mut free) = (Vec::<Vec<Piece>>::new(), 0);
    for (span, Span { tokens, want, .. }) in spans.iter().enumerate() {
        let mut start = 0;
        while start < tokens.len() {
            if free == 0 {
                passes.push(Vec::new());
                free = PASS;
            }
            let len = free.min(tokens.len() - start);
            let ends = start + len == tokens.len();
            let wanted = if *want == Want::Last && !ends { 0 } else { want.tokens(len) };
            passes.last_mut().into_iter().for_each(|p| p.push(Piece { span, start, tokens: len, wanted }));
            start += len;
            free -= len;
        }
    }
    passes
}

/// One task of attention a piece, over the rows of `q` and `a` that follow one another.
pub(crate) fn tasks<'a>(
    spans: &'a [Span<'_>],
    pieces: &[Piece],
    layer: usize,
    mut q: &'a [f32],
    mut a: &'a mut [f32],
    width: usize,
) -> Vec<AttentionTask<'a>> {
    let mut tasks = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (q_rows, q_rest) = q.split_at(piece.tokens * width);
        let (out, a_rest) = a.split_at_mut(piece.tokens * width);
        let cache = &*spans[piece.span].cache;
        tasks.push(AttentionTask { q: q_rows, pages: cache.pages(layer), past: cache.len(), tokens: piece.tokens, out });
        (q, a) = (q_rest, a_rest);
    }
    tasks
}

/// Rows of logits that are computed together.
pub(crate) fn rows_of_logits(vocab: usize) -> usize {
    (LOGITS / vocab.max(1)).max(1)
}
