//! A loaded model.

use crate::{EngineError, KvCache, cache, forward::Workspace, load::Weights, rotary};
use coffer_checkpoint::TensorSource;
use coffer_kernels::{Cpu, Isa, KvFormat};
use coffer_model::{ModelConfig, RopeConfig, RopeScaling};
use std::sync::Mutex;

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
    pub(crate) config: ModelConfig,
    pub(crate) weights: Weights,
    pub(crate) cpu: Cpu,
    /// Radians a position for each pair of a head: in most layers, and in those with a window, where they have their own.
    pub(crate) frequencies: (Vec<f64>, Option<Vec<f64>>),
    pub(crate) workspace: Mutex<Workspace>,
    context: usize,
    kv_format: KvFormat,
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
        Ok(Self::with(config, weights, options))
    }

    /// The engine with these weights.
    pub(crate) fn with(config: &ModelConfig, weights: Weights, options: LoadOptions) -> Self {
        let threads = options.threads.max(1);
        let own = config.window_theta.map(|theta| RopeConfig { theta, scaling: RopeScaling::None });
        let window = own.map(|rope| rotary::frequencies(&rope, config.head_dim));
        Self {
            weights,
            cpu: Cpu::new(options.isa, threads),
            frequencies: (rotary::frequencies(&config.rope, config.head_dim), window),
            workspace: Mutex::default(),
            context: options.context.unwrap_or(config.context).min(config.context),
            kv_format: options.kv_format,
            config: config.clone(),
        }
    }
    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// The instruction set and the threads that it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
    /// Longest sequence that a cache of this engine can hold.
    pub fn context(&self) -> usize {
        self.context
    }
    /// How its caches keep keys and values.
    pub fn kv_format(&self) -> KvFormat {
        self.kv_format
    }
    /// An empty cache with room for `capacity` tokens, at most `context()`. Memory is taken as the sequence grows.
    ///
    /// # Errors
    /// The capacity exceeds the context.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, EngineError> {
        if capacity > self.context {
            return Err(EngineError::Context { wanted: capacity, context: self.context });
        }
        Ok(KvCache::new(self.config.layers, cache::shape(&self.config, self.kv_format), capacity))
    }
    /// Bytes of packed weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}
