//! Texts through a model whose layers are in memory one at a time. The bits are those of an [`Engine`](crate::Engine); memory is that of
//! one layer, or of the embedding or the head, and of the texts' residual streams, 4 bytes · hidden for each token.

use crate::{
    EngineError, LoadOptions, Observer, Span, Want,
    error::grow,
    forward::{PASS, passes, rows_of_logits},
    load::{self, Layer},
    observe::{Nobody, Watch},
    runner::Runner,
};
use coffer_checkpoint::TensorSource;
use coffer_kernels::{Cpu, Matrix};
use coffer_model::ModelConfig;
use std::{ops::Range, sync::Arc};

/// What memory was for.
const TEXT: &str = "a text on its way through the layers";

/// Windows of a text on their way through a model, each by itself.
#[derive(Clone)]
pub struct Layerwise {
    runner: Arc<Runner>,
    source: Arc<dyn TensorSource>,
    windows: Vec<Vec<u32>>,
    /// The residual stream of each window, `[tokens, hidden]`.
    streams: Vec<Vec<f32>>,
    /// Layers that are behind them.
    done: usize,
}

impl Layerwise {
    /// Reads the embedding, and starts `windows`.
    ///
    /// # Errors
    /// As [`Engine::load`](crate::Engine::load) and [`Engine::forward`](crate::Engine::forward).
    pub fn start(
        config: &ModelConfig,
        source: Arc<dyn TensorSource>,
        options: LoadOptions,
        windows: Vec<Vec<u32>>,
    ) -> Result<Self, EngineError> {
        let runner = Arc::new(Runner::new(config, options));
        let embedding = load::embedding(config, &*source, runner.cpu.threads())?;
        let mut streams = Vec::with_capacity(windows.len());
        for tokens in &windows {
            runner.check(tokens)?;
            if tokens.len() > runner.context {
                return Err(EngineError::Context { wanted: tokens.len(), context: runner.context });
            }
            let mut stream = Vec::new();
            grow(&mut stream, tokens.len().saturating_mul(config.hidden), TEXT)?;
            runner.embedded(&embedding, tokens, &mut stream);
            streams.push(stream);
        }
        Ok(Self { runner, source, windows, streams, done: 0 })
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.runner.config
    }

    /// The instruction set and the threads that it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.runner.cpu
    }

    /// Layers that are behind the windows.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Reads the next layer and sends all windows through it, in order, before the eyes of `observer`; `false` if there is none.
    ///
    /// # Errors
    /// As [`Engine::load`](crate::Engine::load), or memory ran out.
    pub fn advance(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        if self.done == self.config().layers {
            return Ok(false);
        }
        let layer = self.next_layer(&*self.source)?;
        for (tokens, x) in self.windows.iter().zip(&mut self.streams) {
            self.runner.through(&layer, self.done, tokens, x, observer)?;
        }
        self.done += 1;
        Ok(true)
    }

    /// Adds the first `windows` windows once more as the next layer sends them on if its weights are those of `other`, and then
    /// [advances](Self::advance) all the others.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn advance_beside(&mut self, windows: usize, others: &[&dyn TensorSource]) -> Result<bool, EngineError> {
        let mut beside = Vec::new();
        for other in others {
            let layer = self.next_layer(*other)?;
            for (tokens, x) in self.windows.iter().zip(&self.streams).take(windows) {
                let mut stream = Vec::new();
                grow(&mut stream, x.len(), TEXT)?;
                stream.copy_from_slice(x);
                self.runner.through(&layer, self.done, tokens, &mut stream, &mut Nobody)?;
                beside.push((tokens.clone(), stream));
            }
        }
        let any = self.advance(&mut Nobody)?;
        let (windows, streams): (Vec<_>, Vec<_>) = beside.into_iter().unzip();
        self.windows.extend(windows);
        self.streams.extend(streams);
        Ok(any)
    }

    fn next_layer(&self, source: &dyn TensorSource) -> Result<Layer, EngineError> {
        Layer::load(self.config(), source, self.done, self.cpu().threads())
    }

    /// Sends the windows through what is left of the layers, and reads the head.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn finish(mut self, observer: &mut dyn Observer) -> Result<Finished, EngineError> {
        while self.advance(observer)? {}
        let (norm, head) = load::head(self.config(), &*self.source, self.cpu().threads())?;
        Ok(Finished { runner: self.runner, streams: self.streams, norm, head })
    }
}

/// Windows behind all layers.
pub struct Finished {
    runner: Arc<Runner>,
    streams: Vec<Vec<f32>>,
    /// `[hidden]`
    norm: Vec<f32>,
    /// `[vocab, hidden]`
    head: Matrix,
}

impl Finished {
    /// Hands the logits `[vocab]` of tokens `rows` of window `window` to `each`.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn logits(&self, window: usize, rows: Range<usize>, each: &mut dyn FnMut(&[f32])) -> Result<(), EngineError> {
        let (hidden, vocab) = (self.runner.config.hidden, self.vocab());
        let x = &self.streams[window][rows.start * hidden..rows.end * hidden];
        let (mut h, mut logits) = (Vec::new(), Vec::new());
        grow(&mut h, x.len(), "logits")?;
        grow(&mut logits, rows.len().min(rows_of_logits(vocab)).saturating_mul(vocab), "logits")?;
        self.runner.head((&self.norm, &self.head), x, &mut h, &mut logits, each);
        Ok(())
    }

    /// The instruction set and the threads that it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.runner.cpu
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.runner.config.vocab
    }
}

impl Runner {
    /// Sends the residual stream `x` `[tokens, hidden]` of one sequence through `layer`, the `i`th.
    ///
    /// # Errors
    /// Memory ran out.
    fn through(
        &self,
        layer: &Layer,
        i: usize,
        tokens: &[u32],
        x: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let mut cache = self.cache(1, tokens.len())?;
        cache.reserve(tokens.len())?;
        let spans = &mut [Span { cache: &mut cache, tokens, want: Want::Nothing }];
        let passes = passes(spans);
        let mut work = self.workspace();
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
}
