//! The shape of a model, read from `config.json` or from GGUF metadata.

use coffer_checkpoint::gguf::Metadata;

/// Model families that the engine runs. Others are refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM, and whatever else says `LlamaForCausalLM`.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on Q, K and V.
    Qwen2,
}

/// Rotary position embedding (Su et al., arXiv:2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric sequence of frequencies.
    pub theta: f64,
    /// Frequency scaling, none by default.
    pub scaling: RopeScaling,
}

/// How frequencies are changed for longer contexts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Unchanged.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Bound of the long wavelengths.
        low_freq_factor: f64,
        /// Bound of the short wavelengths.
        high_freq_factor: f64,
        /// Context that the model was first trained with.
        original_context: u64,
    },
}

/// Everything about a model that is not a weight. All sizes are bounded when read.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Added to the mean square in RMS norm.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Whether the output head is the embedding.
    pub tie_embeddings: bool,
    /// Whether Q, K and V have biases.
    pub qkv_bias: bool,
    /// Attend to the last so many positions only.
    pub sliding_window: Option<usize>,
    /// Token that starts a text, if the model wants one.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
}

impl ModelConfig {
    /// Reads `config.json` (and `generation_config.json` for the end tokens), old and new key names.
    pub fn from_hf(config: &[u8], generation: Option<&[u8]>) -> Result<Self, ConfigError> {
        let _ = (config, generation);
        todo!()
    }
    /// Writes `config.json`; `dtype` is `bfloat16`, `float16` or `float32`.
    pub fn to_hf(&self, dtype: &str) -> String {
        let _ = dtype;
        todo!()
    }
    /// Reads GGUF metadata.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, ConfigError> {
        let _ = metadata;
        todo!()
    }
    /// Writes GGUF metadata.
    pub fn to_gguf(&self, metadata: &mut Metadata) {
        let _ = metadata;
        todo!()
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The family is not one that the engine runs.
    #[error("architecture `{0}` is not supported; supported: llama, mistral, qwen2")]
    Architecture(String),
}
