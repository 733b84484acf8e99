//! Texts through a model whose layers are in memory one at a time. The bits are those of an [`Engine`]; memory is that of one layer, of
//! what belongs to none, and of the texts' residual streams, 4 bytes · hidden for each token.

use crate::{
    Engine, EngineError, LoadOptions, Observer,
    error::grow,
    forward::rows_of_logits,
    load::{Layer, Weights},
};
use coffer_checkpoint::TensorSource;
use coffer_model::ModelConfig;
use std::{ops::Range, sync::Arc};

/// Windows of a text on their way through a model, each by itself.
pub struct Layerwise {
    engine: Engine,
    source: Arc<dyn TensorSource>,
    windows: Vec<Vec<u32>>,
    /// The residual stream of each window, `[tokens, hidden]`.
    streams: Vec<Vec<f32>>,
    /// Layers that are behind them.
    done: usize,
}

impl Layerwise {
    /// Reads what belongs to no layer, and starts `windows`.
    ///
    /// # Errors
    /// As [`Engine::load`] and [`Engine::forward`].
    pub fn start(
        config: &ModelConfig,
        source: Arc<dyn TensorSource>,
        options: LoadOptions,
        windows: Vec<Vec<u32>>,
    ) -> Result<Self, EngineError> {
        let weights = Weights::load_without_layers(config, &*source, options.threads.max(1))?;
        let engine = Engine::with(config, weights, options);
        let mut streams = Vec::with_capacity(windows.len());
        for tokens in &windows {
            if let Some(&token) = tokens.iter().find(|&&t| t as usize >= config.vocab) {
                return Err(EngineError::Token { token, vocab: config.vocab });
            }
            if tokens.len() > engine.context() {
                return Err(EngineError::Context { wanted: tokens.len(), context: engine.context() });
            }
            let mut stream = Vec::new();
            grow(&mut stream, tokens.len().saturating_mul(config.hidden), "a text on its way through the layers")?;
            engine.embedded(tokens, &mut stream);
            streams.push(stream);
        }
        Ok(Self { engine, source, windows, streams, done: 0 })
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        self.engine.config()
    }

    /// The engine without its layers: instruction set and threads.
    pub fn cpu(&self) -> &coffer_kernels::Cpu {
        self.engine.cpu()
    }

    /// Layers that are behind the windows.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Windows.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// Reads the next layer and sends all windows through it, in order, before the eyes of `observer`; `false` if there is none.
    ///
    /// # Errors
    /// As [`Engine::load`], or memory ran out.
    pub fn advance(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let config = self.engine.config();
        if self.done == config.layers {
            return Ok(false);
        }
        let layer = Layer::load(config, &*self.source, self.done, self.engine.cpu().threads())?;
        for (tokens, x) in self.windows.iter().zip(&mut self.streams) {
            self.engine.through(&layer, self.done, tokens, x, observer)?;
        }
        self.done += 1;
        Ok(true)
    }

    /// Hands the logits `[vocab]` of tokens `rows` of window `window` to `each`; all layers are behind it.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn logits(&self, window: usize, rows: Range<usize>, each: &mut dyn FnMut(&[f32])) -> Result<(), EngineError> {
        let (hidden, vocab) = (self.config().hidden, self.config().vocab);
        let x = &self.streams[window][rows.start * hidden..rows.end * hidden];
        let (mut h, mut logits) = (Vec::new(), Vec::new());
        grow(&mut h, x.len(), "logits")?;
        grow(&mut logits, rows.len().min(rows_of_logits(vocab)).saturating_mul(vocab), "logits")?;
        self.engine.head(x, &mut h, &mut logits, each);
        Ok(())
    }
}
