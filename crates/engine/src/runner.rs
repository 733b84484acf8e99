//! What runs layers, whoever holds their weights: threads, rotary frequencies and room to work in.

use crate::{
    EngineError, KvCache, LoadOptions, Span, cache,
    forward::{Piece, Workspace, rows_of_logits, tasks},
    load::{FeedForward, Gated, Layer, Linear},
    observe::{self, Part, Watch},
    rotary,
};
use coffer_kernels::{Cpu, KvFormat, Matrix, cpu::AttentionShape};
use coffer_model::{Activation, ModelConfig, RopeConfig, RopeScaling};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs the layers of a model of one shape.
pub(crate) struct Runner {
    pub(crate) config: ModelConfig,
    pub(crate) cpu: Cpu,
    /// Radians a position for each pair of a head: in most layers, and in those with a window, where they have their own.
    pub(crate) frequencies: (Vec<f64>, Option<Vec<f64>>),
    pub(crate) context: usize,
    pub(crate) kv_format: KvFormat,
    workspace: Mutex<Workspace>,
}

impl Runner {
    pub(crate) fn new(config: &ModelConfig, options: LoadOptions) -> Self {
        let own = config.window_theta.map(|theta| RopeConfig { theta, scaling: RopeScaling::None });
        let window = own.map(|rope| rotary::frequencies(&rope, config.head_dim));
        Self {
            cpu: Cpu::new(options.isa, options.threads.max(1)),
            frequencies: (rotary::frequencies(&config.rope, config.head_dim), window),
            workspace: Mutex::default(),
            context: options.context.unwrap_or(config.context).min(config.context),
            kv_format: options.kv_format,
            config: config.clone(),
        }
    }

    /// The only room to work in. A panic in another pass leaves nothing behind that this one would read.
    pub(crate) fn workspace(&self) -> MutexGuard<'_, Workspace> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty cache of `layers` layers with room for `capacity` tokens, at most the context.
    pub(crate) fn cache(&self, layers: usize, capacity: usize) -> Result<KvCache, EngineError> {
        if capacity > self.context {
            return Err(EngineError::Context { wanted: capacity, context: self.context });
        }
        Ok(KvCache::new(layers, cache::shape(&self.config, self.kv_format), capacity))
    }

    /// Whether all of `tokens` are of the vocabulary.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab = self.config.vocab;
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(EngineError::Token { token, vocab }),
            None => Ok(()),
        }
    }

    /// The residual stream `[tokens, hidden]` of `tokens` before the first layer, by the rows of `embedding`.
    pub(crate) fn embedded(&self, embedding: &Matrix, tokens: &[u32], x: &mut [f32]) {
        for (&token, row) in tokens.iter().zip(x.chunks_exact_mut(self.config.hidden)) {
            embedding.decode_row(token as usize, row);
        }
        if self.config.architecture.family().scaled_embedding {
            self.cpu.scale(x, (self.config.hidden as f32).sqrt());
        }
    }

    /// The first half of a block: `x += o(attention(rope(q(norm(x))), …))`.
    pub(crate) fn attend(
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
    pub(crate) fn feed_forward(&self, work: &mut Workspace, layer: &Layer, tokens: usize, watch: &mut Watch<'_>) {
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

    /// Final norm `[hidden]` and head `[vocab, hidden]` of the residual stream `x`; `h` of its length and `logits` are working space.
    pub(crate) fn head(
        &self,
        (norm, head): (&[f32], &Matrix),
        x: &[f32],
        h: &mut [f32],
        logits: &mut [f32],
        each: &mut dyn FnMut(&[f32]),
    ) {
        let (hidden, vocab) = (self.config.hidden, self.config.vocab);
        self.cpu.rms_norm(x, norm, self.config.norm_eps, h);
        for h in h.chunks(rows_of_logits(vocab) * hidden) {
            let rows = h.len() / hidden;
            let logits = &mut logits[..rows * vocab];
            self.cpu.matmul(&[head], h, rows, &mut [&mut *logits]);
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
            kv: cache::shape(config, self.kv_format),
            window: config.window(layer),
            scale: 1.0 / (config.query_scalar as f32).sqrt(),
            bound: config.score_bound,
        }
    }
}
