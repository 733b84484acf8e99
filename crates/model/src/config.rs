//! The shape of a model, read from `config.json` or from GGUF metadata.

mod gguf;
mod hf;

use crate::Architecture;

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

/// The feed-forward layers of a mixture of experts: each token goes through the few that a router chooses for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are in a layer.
    pub count: usize,
    /// How many a token goes through.
    pub chosen: usize,
    /// Whether the weights of those chosen are scaled to add up to 1.
    pub normalized: bool,
    /// Width of one more expert that every token goes through.
    pub shared: Option<usize>,
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
    /// Width of the feed-forward layer; of each expert, where there are some.
    pub ffn: usize,
    /// Experts in place of the one feed-forward layer.
    pub experts: Option<Experts>,
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
    /// Attend to the last so many positions only.
    pub sliding_window: Option<usize>,
    /// Every n-th layer attends to all positions nevertheless.
    pub full_attention_every: Option<usize>,
    /// Base of the rotary frequencies of layers with a window, unscaled, where they have their own.
    pub window_theta: Option<f64>,
    /// Scores are divided by the root of this: the width of a head, mostly.
    pub query_scalar: usize,
    /// Scores are bounded by this.
    pub score_bound: Option<f32>,
    /// Logits are bounded by this.
    pub logit_bound: Option<f32>,
    /// Token that starts a text, if the model wants one.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
}

impl RopeScaling {
    /// Divisor of each of the `head_dim / 2` frequencies, as llama.cpp's `rope_freqs.weight` holds them;
    /// `None` unless the scaling is Llama 3's. For exchange and comparison with files only: the engine derives its own.
    pub fn llama3_divisors(&self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = *self else { return None };
        let context = original_context as f64;
        let divisor = |pair: usize| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
            if wavelength < context / high_freq_factor {
                1.0
            } else if wavelength > context / low_freq_factor {
                factor
            } else {
                let kept = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                1.0 / ((1.0 - kept) / factor + kept)
            }
        };
        Some((0..head_dim / 2).map(|pair| divisor(pair) as f32).collect())
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The family is not one that the engine runs.
    #[error("architecture `{0}` is not supported; supported: {names}", names = Architecture::names())]
    Architecture(String),
    /// The file is no JSON object.
    #[error("{file}: {reason}")]
    Json {
        /// File.
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A field that has no safe default is absent.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A value is out of range or contradicts another.
    #[error("`{field}` is {value}: {reason}")]
    Invalid {
        /// Field.
        field: String,
        /// Its value.
        value: String,
        /// What it should be.
        reason: String,
    },
    /// The value is meaningful, but this version does not compute it.
    #[error("`{field}` is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// Field.
        field: String,
        /// Its value.
        value: String,
        /// What is.
        supported: &'static str,
    },
}

impl ConfigError {
    fn invalid(field: &str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.to_owned(), value: value.to_string(), reason: reason.into() }
    }
    fn unsupported(field: &str, value: impl ToString, supported: &'static str) -> Self {
        Self::Unsupported { field: field.to_owned(), value: value.to_string(), supported }
    }
}

/// Upper bounds of the sizes: generous against any published model, small enough that no product of two overflows.
const MAX_HIDDEN: usize = 1 << 20;
const MAX_LAYERS: usize = 4096;
const MAX_HEADS: usize = 1 << 14;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_FFN: usize = 1 << 24;
const MAX_EXPERTS: usize = 1 << 12;
/// Of all layers: each is several tensors, and a name for each is made before one is looked for.
const MAX_EXPERTS_IN_ALL: usize = 1 << 16;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 31;

impl ModelConfig {
    /// Whether tensors of this shape are norms that Hugging Face stores less 1. In the canonical form they are whole, and always F32: near 1
    /// the narrow types have too few digits for them.
    pub fn is_less_one(&self, shape: &[u64]) -> bool {
        self.architecture.family().norms_less_one && shape.len() == 1
    }

    /// The window of a layer.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.full_attention_every.is_none_or(|every| !(layer + 1).is_multiple_of(every)))
    }

    /// Checks every size against its bound and against the others.
    fn checked(self) -> Result<Self, ConfigError> {
        let sizes = [
            ("hidden_size", self.hidden, MAX_HIDDEN),
            ("num_hidden_layers", self.layers, MAX_LAYERS),
            ("num_attention_heads", self.heads, MAX_HEADS),
            ("num_key_value_heads", self.kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("intermediate_size", self.ffn, MAX_FFN),
            ("vocab_size", self.vocab, MAX_VOCAB),
            ("max_position_embeddings", self.context, MAX_CONTEXT),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_CONTEXT),
            ("sliding_window_pattern", self.full_attention_every.unwrap_or(1), MAX_LAYERS),
            ("query_pre_attn_scalar", self.query_scalar, MAX_HIDDEN),
        ];
        let experts = self.experts.iter().flat_map(|experts| {
            [
                ("num_experts", experts.count, MAX_EXPERTS),
                ("num_experts_per_tok", experts.chosen, experts.count),
                ("shared_expert_intermediate_size", experts.shared.unwrap_or(1), MAX_FFN),
            ]
        });
        for (field, value, max) in sizes.into_iter().chain(experts) {
            if value == 0 || value > max {
                return Err(ConfigError::invalid(field, value, format!("must be between 1 and {max}")));
            }
        }
        if let Some(experts) = self.experts.as_ref().filter(|experts| experts.count * self.layers > MAX_EXPERTS_IN_ALL) {
            let reason = format!("{} layers with as many are more than {MAX_EXPERTS_IN_ALL} experts", self.layers);
            return Err(ConfigError::invalid("num_experts", experts.count, reason));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!("must divide num_attention_heads, which is {}", self.heads);
            return Err(ConfigError::invalid("num_key_value_heads", self.kv_heads, reason));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::invalid("head_dim", self.head_dim, "must be even for rotary embedding"));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::invalid("rms_norm_eps", self.norm_eps, "must lie between 0 and 1"));
        }
        for (field, bound) in [("attn_logit_softcapping", self.score_bound), ("final_logit_softcapping", self.logit_bound)] {
            if let Some(bound) = bound.filter(|b| !(b.is_finite() && *b >= 1.0)) {
                return Err(ConfigError::invalid(field, bound, "must be at least 1"));
            }
        }
        self.rope.check()?;
        if let Some(theta) = self.window_theta {
            RopeConfig { theta, scaling: RopeScaling::None }.check()?;
        }
        match self.eos.iter().chain(&self.bos).find(|&&id| id as usize >= self.vocab) {
            Some(id) => Err(ConfigError::invalid(
                "bos_token_id/eos_token_id",
                id,
                format!("must be below vocab_size, which is {}", self.vocab),
            )),
            None => Ok(self),
        }
    }
}

impl RopeConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let positive = |field, value: f64| match value.is_finite() && value > 0.0 && value < 1e15 {
            true => Ok(()),
            false => Err(ConfigError::invalid(field, value, "must be positive and below 1e15")),
        };
        positive("rope_theta", self.theta)?;
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope_scaling.factor", factor)?;
                positive("rope_scaling.low_freq_factor", low_freq_factor)?;
                positive("rope_scaling.high_freq_factor", high_freq_factor)?;
                positive("rope_scaling.original_max_position_embeddings", original_context as f64)?;
                match low_freq_factor < high_freq_factor {
                    true => Ok(()),
                    false => Err(ConfigError::invalid(
                        "rope_scaling.high_freq_factor",
                        high_freq_factor,
                        format!("must be above low_freq_factor, which is {low_freq_factor}"),
                    )),
                }
            }
        }
    }
}

/// `x` as the shortest decimal that gives `x` again, so that 1e-5 stored in 32 bits is 1e-5 in 64 bits.
fn widen(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
