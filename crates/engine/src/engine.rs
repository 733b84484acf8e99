//! A loaded model.

use crate::{EngineError, KvCache, load::Weights, runner::Runner};
use coffer_checkpoint::TensorSource;
use coffer_kernels::{Cpu, Isa, KvFormat};
use coffer_model::ModelConfig;

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Instruction set.
    pub isa: Isa,
    /// Threads, at least one.
    pub threads: usize,
    /// Longest context to prepare for; `None`, or more than the model's own: the model's own.
    pub context: Option<usize>,
    /// How caches keep keys and values. Logits depend on it.
    pub kv_format: KvFormat,
}

/// A loaded model: packed weights, rotary frequencies and a pool of threads. Shared by all sequences; forward passes
/// asked for at the same time run one after the other.
pub struct Engine {
    pub(crate) runner: Runner,
    pub(crate) weights: Weights,
}

/// New tokens of one sequence in a forward pass.
pub struct Span<'a> {
    /// The sequence's cache; the tokens are appended to it.
    pub cache: &'a mut KvCache,
    /// New tokens, at least one.
    pub tokens: &'a [u32],
    /// Which logits to compute.
    pub want: Want,
}

/// Which logits a forward pass computes for a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the span only fills the cache.
    Nothing,
    /// Those of the last token.
    Last,
    /// Those of every token.
    All,
}

impl Engine {
    /// Reads and packs the weights. `progress` is called with bytes done and bytes in all.
    ///
    /// # Errors
    /// A tensor is missing, has another shape than the configuration demands, a type without a product, or cannot be read.
    pub fn load(
        config: &ModelConfig,
        weights: &dyn TensorSource,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let weights = Weights::load(config, weights, options.threads.max(1), progress)?;
        Ok(Self { runner: Runner::new(config, options), weights })
    }
    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.runner.config
    }
    /// The instruction set and the threads that it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.runner.cpu
    }
    /// Longest sequence that a cache of this engine can hold.
    pub fn context(&self) -> usize {
        self.runner.context
    }
    /// How its caches keep keys and values.
    pub fn kv_format(&self) -> KvFormat {
        self.runner.kv_format
    }
    /// An empty cache with room for `capacity` tokens, at most `context()`. Memory is taken as the sequence grows.
    ///
    /// # Errors
    /// The capacity exceeds the context.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, EngineError> {
        self.runner.cache(self.config().layers, capacity)
    }
    /// Bytes of packed weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}
