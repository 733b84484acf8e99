//! The forward pass: all spans of all sequences go through a layer together.

use crate::{
    Engine, EngineError, KvCache, Span, Want, cache,
    error::grow,
    load::{FeedForward, Gated, Layer, Linear},
    mixture::Mixture,
    observe::{self, Nobody, Observer, Part, Watch},
};
use coffer_kernels::{
    Matrix,
    cpu::{AttentionShape, AttentionTask, RopeTable},
};
use coffer_model::Activation;
use std::sync::PoisonError;

/// Tokens that go through the layers together, at most: bounds the workspace.
const PASS: usize = 512;

/// Logits that are computed together, at most, unless one row alone is longer.
const LOGITS: usize = 1 << 22;

/// Buffers of a pass, kept between passes.
#[derive(Default)]
pub(crate) struct Workspace {
    /// Residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// Normalized input of a product, `[tokens, hidden]`.
    h: Vec<f32>,
    /// What a block adds to the stream, `[tokens, hidden]`.
    y: Vec<f32>,
    /// Queries, `[tokens, heads, head_dim]`.
    q: Vec<f32>,
    /// New keys and values, `[tokens, kv_heads, head_dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
    /// Attention's output, `[tokens, heads, head_dim]`.
    a: Vec<f32>,
    /// `[tokens, ffn]`.
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Of a mixture of experts.
    mixture: Mixture,
    /// `[wanted tokens of a piece, vocab]`.
    logits: Vec<f32>,
    /// Position of each token in its sequence.
    positions: Vec<u32>,
    rope: Option<Rope>,
}

/// Sines and cosines.
struct Rope {
    table: RopeTable,
    /// Of layers with a window, where they have their own.
    window: Option<RopeTable>,
    /// Positions that they cover.
    covered: usize,
}

impl Rope {
    fn of(&self, window: bool) -> &RopeTable {
        self.window.as_ref().filter(|_| window).unwrap_or(&self.table)
    }
}

/// A part of a span that goes through the layers in one pass.
struct Piece {
    /// Which span.
    span: usize,
    /// First token of the span.
    start: usize,
    tokens: usize,
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
        let len = wanted.saturating_mul(self.config.vocab);
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
        // A panic in `each` leaves nothing behind that the next pass would read.
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = spans.iter().map(|s| s.cache.len() + s.tokens.len()).max().unwrap_or(0);
        workspace.prepare(self, &passes, positions)?;
        passes.iter().for_each(|pass| self.pass(&mut workspace, spans, pass, observer, each));
        Ok(())
    }

    fn check(&self, span: &Span<'_>) -> Result<(), EngineError> {
        let vocab = self.config.vocab;
        if span.tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&token) = span.tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(EngineError::Token { token, vocab });
        }
        if !span.cache.fits(&self.config, self.kv_format()) || span.cache.capacity() > self.context() {
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
        observer.residual(0, &work.x[..tokens * self.config.hidden]);
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let watch = &mut Watch { observer, layer: i, cached: i };
            self.attend(work, layer, spans, pieces, tokens, watch);
            self.feed_forward(work, layer, tokens, watch);
            observer.residual(i + 1, &work.x[..tokens * self.config.hidden]);
        }
        pieces.iter().for_each(|p| spans[p.span].cache.advance(p.tokens));
        self.emit(work, pieces, each);
    }

    /// The residual stream `[tokens, hidden]` of `tokens` before the first layer.
    pub(crate) fn embedded(&self, tokens: &[u32], x: &mut [f32]) {
        for (&token, row) in tokens.iter().zip(x.chunks_exact_mut(self.config.hidden)) {
            self.weights.embedding.decode_row(token as usize, row);
        }
        if self.config.architecture.family().scaled_embedding {
            self.cpu.scale(x, (self.config.hidden as f32).sqrt());
        }
    }

    /// Looks up the tokens of all pieces and notes their positions; returns how many there are.
    fn embed(&self, work: &mut Workspace, spans: &[Span<'_>], pieces: &[Piece]) -> usize {
        work.note_positions(spans, pieces);
        let mut row = 0;
        for piece in pieces {
            let rows = &mut work.x[row * self.config.hidden..(row + piece.tokens) * self.config.hidden];
            self.embedded(&spans[piece.span].tokens[piece.start..piece.start + piece.tokens], rows);
            row += piece.tokens;
        }
        row
    }

    /// Sends the residual stream `x` `[tokens, hidden]` of one sequence through `layer`, the `i`th.
    ///
    /// # Errors
    /// Memory ran out.
    pub(crate) fn through(
        &self,
        layer: &Layer,
        i: usize,
        tokens: &[u32],
        x: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let mut cache = KvCache::new(1, cache::shape(&self.config, self.kv_format()), tokens.len());
        cache.reserve(tokens.len())?;
        let spans = &mut [Span { cache: &mut cache, tokens, want: Want::Nothing }];
        let passes = passes(spans);
        let mut work = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        work.prepare(self, &passes, tokens.len())?;
        for (pieces, x) in passes.iter().zip(x.chunks_mut(PASS * self.config.hidden)) {
            let tokens = x.len() / self.config.hidden;
            work.note_positions(spans, pieces);
            work.x[..x.len()].copy_from_slice(x);
            let watch = &mut Watch { observer, layer: i, cached: 0 };
            self.attend(&mut work, layer, spans, pieces, tokens, watch);
            self.feed_forward(&mut work, layer, tokens, watch);
            x.copy_from_slice(&work.x[..x.len()]);
            pieces.iter().for_each(|p| spans[p.span].cache.advance(p.tokens));
        }
        Ok(())
    }

    /// The first half of a block: `x += o(attention(rope(q(norm(x))), …))`.
    fn attend(
        &self,
        work: &mut Workspace,
        layer: &Layer,
        spans: &mut [Span<'_>],
        pieces: &[Piece],
        tokens: usize,
        watch: &mut Watch<'_>,
    ) {
        let (config, cpu, i) = (&self.config, &self.cpu, watch.layer);
        let (width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (x, h) = (&mut work.x[..tokens * config.hidden], &mut work.h[..tokens * config.hidden]);
        let (q, a) = (&mut work.q[..tokens * width], &mut work.a[..tokens * width]);
        let (k, v) = (&mut work.k[..tokens * kv_width], &mut work.v[..tokens * kv_width]);
        cpu.rms_norm(x, &layer.attention_norm, config.norm_eps, h);
        watch.input(Part::Attention, h, tokens);
        self.products(&[&layer.q, &layer.k, &layer.v], h, tokens, &mut [&mut *q, &mut *k, &mut *v]);
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            cpu.rms_norm_in_place(q, q_norm, config.norm_eps);
            cpu.rms_norm_in_place(k, k_norm, config.norm_eps);
        }
        let turned = work.rope.as_ref().map(|rope| rope.of(config.window(i).is_some()));
        if let Some(rope) = turned {
            cpu.rope(q, config.heads, rope, &work.positions);
            cpu.rope(k, config.kv_heads, rope, &work.positions);
        }
        let mut row = 0;
        for piece in pieces {
            let rows = row * kv_width..(row + piece.tokens) * kv_width;
            let cache = &mut *spans[piece.span].cache;
            cache.write(watch.cached, cache.len(), &k[rows.clone()], &v[rows]);
            row += piece.tokens;
        }
        cpu.attention(self.attention_shape(i), &mut tasks(spans, pieces, watch.cached, q, a, width));
        let y = &mut work.y[..tokens * config.hidden];
        watch.input(Part::Output, a, tokens);
        self.products(&[&layer.o], a, tokens, &mut [&mut *y]);
        if let Some([norm, _]) = &layer.post_norms {
            cpu.rms_norm_in_place(y, norm, config.norm_eps);
        }
        cpu.add(x, y);
    }

    /// The second half of a block: `x += down(silu(gate(norm(x))) * up(norm(x)))`, or what experts make of it.
    fn feed_forward(&self, work: &mut Workspace, layer: &Layer, tokens: usize, watch: &mut Watch<'_>) {
        let (config, cpu) = (&self.config, &self.cpu);
        let Workspace { x, h, y, gate, up, mixture, .. } = work;
        let [x, h, y] = [x, h, y].map(|buffer| &mut buffer[..tokens * config.hidden]);
        cpu.rms_norm(x, &layer.ffn_norm, config.norm_eps, h);
        match &layer.feed_forward {
            FeedForward::Dense(gated) => self.gated(gated, h, [gate, up], y, observe::FeedForward::Dense, watch),
            FeedForward::Experts { router, experts, shared } => {
                y.fill(0.0);
                self.mixture(mixture, router, experts, h, [gate, up], y, watch);
                if let Some((expert, weight)) = shared {
                    self.shared(mixture, expert, weight, h, [gate, up], y, watch);
                }
            }
        }
        if let Some([_, norm]) = &layer.post_norms {
            cpu.rms_norm_in_place(y, norm, config.norm_eps);
        }
        cpu.add(x, y);
    }

    /// `y = down(silu(gate(h)) * up(h))`; `gate` and `up` are working space.
    pub(crate) fn gated(
        &self,
        layer: &Gated,
        h: &[f32],
        [gate, up]: [&mut [f32]; 2],
        y: &mut [f32],
        which: observe::FeedForward,
        watch: &mut Watch<'_>,
    ) {
        let tokens = h.len() / self.config.hidden;
        let width = tokens * layer.gate.weight.rows();
        let (gate, up) = (&mut gate[..width], &mut up[..width]);
        watch.input(Part::GateUp(which), h, tokens);
        self.products(&[&layer.gate, &layer.up], h, tokens, &mut [&mut *gate, &mut *up]);
        match self.config.architecture.family().activation {
            Activation::Silu => self.cpu.swiglu(gate, up),
            Activation::Gelu => self.cpu.geglu(gate, up),
        }
        watch.input(Part::Down(which), gate, tokens);
        self.products(&[&layer.down], gate, tokens, &mut [&mut *y]);
    }

    /// Products with their biases, of layers that share their input.
    pub(crate) fn products<const N: usize>(&self, layers: &[&Linear; N], x: &[f32], tokens: usize, ys: &mut [&mut [f32]; N]) {
        let weights: [&Matrix; N] = layers.map(|l| &l.weight);
        self.cpu.matmul(&weights, x, tokens, ys);
        for (layer, y) in layers.iter().zip(ys) {
            if let Some(bias) = &layer.bias {
                self.cpu.add(y, bias);
            }
        }
    }

    /// Final norm and head of the wanted tokens.
    fn emit(&self, work: &mut Workspace, pieces: &[Piece], each: &mut dyn FnMut(&[f32])) {
        let hidden = self.config.hidden;
        let (mut end, mut wanted) = (0, 0);
        for piece in pieces {
            end += piece.tokens;
            let rows = (end - piece.wanted) * hidden..end * hidden;
            work.y[wanted * hidden..][..rows.len()].copy_from_slice(&work.x[rows]);
            wanted += piece.wanted;
        }
        let Workspace { y, h, logits, .. } = work;
        self.head(&y[..wanted * hidden], &mut h[..wanted * hidden], logits, each);
    }

    /// Final norm and head of the residual stream `x`; `h` of its length and `logits` are working space.
    pub(crate) fn head(&self, x: &[f32], h: &mut [f32], logits: &mut [f32], each: &mut dyn FnMut(&[f32])) {
        let (hidden, vocab) = (self.config.hidden, self.config.vocab);
        self.cpu.rms_norm(x, &self.weights.norm, self.config.norm_eps, h);
        for h in h.chunks(rows_of_logits(vocab) * hidden) {
            let rows = h.len() / hidden;
            let logits = &mut logits[..rows * vocab];
            self.cpu.matmul(&[self.weights.head()], h, rows, &mut [&mut *logits]);
            if let Some(bound) = self.config.logit_bound {
                self.cpu.softcap(logits, bound);
            }
            logits.chunks_exact(vocab).for_each(&mut *each);
        }
    }

    fn attention_shape(&self, layer: usize) -> AttentionShape {
        let config = &self.config;
        AttentionShape {
            heads: config.heads,
            kv: cache::shape(config, self.kv_format()),
            window: config.window(layer),
            scale: 1.0 / (config.query_scalar as f32).sqrt(),
            bound: config.score_bound,
        }
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
    fn note_positions(&mut self, spans: &[Span<'_>], pieces: &[Piece]) {
        self.positions.clear();
        for piece in pieces {
            let past = spans[piece.span].cache.len();
            self.positions.extend((past..past + piece.tokens).map(|p| p as u32));
        }
    }

    /// Makes every buffer long enough for the longest of `passes`, and the rotary table for `positions`.
    fn prepare(&mut self, engine: &Engine, passes: &[Vec<Piece>], positions: usize) -> Result<(), EngineError> {
        let most = |count: fn(&Piece) -> usize| passes.iter().map(|p| p.iter().map(count).sum()).max().unwrap_or(0);
        let (tokens, wanted): (usize, usize) = (most(|p| p.tokens), most(|p| p.wanted));
        let config = &engine.config;
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
            let (frequencies, window) = &engine.frequencies;
            let table = |frequencies: &Vec<f64>| RopeTable::new(frequencies, covered);
            self.rope = Some(Rope { table: table(frequencies), window: window.as_ref().map(table), covered });
        }
        Ok(())
    }
}

/// Cuts the spans into passes of at most `PASS` tokens, spans in order.
fn passes(spans: &[Span<'_>]) -> Vec<Vec<Piece>> {
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
fn tasks<'a>(
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
