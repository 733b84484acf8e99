//! A loaded model and its forward pass.

use coffer_checkpoint::TensorSource;
use coffer_kernels::Isa;
use coffer_model::ModelConfig;

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Instruction set.
    pub isa: Isa,
    /// Threads, at least one.
    pub threads: usize,
    /// Longest context to prepare for; `None`: the model's own.
    pub context: Option<usize>,
}

/// A loaded model: packed weights, rotary tables and a pool of threads. Shared by all sequences.
pub struct Engine;

/// Keys and values of one sequence.
pub struct KvCache;

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
    pub fn load(
        config: &ModelConfig,
        weights: &dyn TensorSource,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let _ = (config, weights, options, progress);
        todo!()
    }
    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        todo!()
    }
    /// Longest sequence that a cache of this engine can hold.
    pub fn context(&self) -> usize {
        todo!()
    }
    /// An empty cache with room for `capacity` tokens, at most `context()`.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, EngineError> {
        let _ = capacity;
        todo!()
    }
    /// Runs all spans together and returns their logits, `[wanted tokens, vocab]`, spans in order.
    /// A token's logits depend on its own sequence alone, to the bit.
    pub fn forward(&self, spans: &mut [Span<'_>]) -> Result<Vec<f32>, EngineError> {
        let _ = spans;
        todo!()
    }
    /// Bytes of packed weights in memory.
    pub fn weight_bytes(&self) -> usize {
        todo!()
    }
}

impl KvCache {
    /// Positions filled.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether nothing was cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        todo!()
    }
    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        let _ = len;
        todo!()
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A sequence grew past its cache.
    #[error("{wanted} tokens do not fit into a context of {context}")]
    Context {
        /// Tokens in all.
        wanted: usize,
        /// What fits.
        context: usize,
    },
}
