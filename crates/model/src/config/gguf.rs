//! The keys of GGUF metadata that describe the model (llama.cpp, gguf-py/gguf/constants.py).

use super::{ConfigError, Experts, ModelConfig, RopeConfig, RopeScaling, widen};
use crate::{
    Architecture,
    family::{ExpertFields, Windows},
};
use coffer_checkpoint::{
    TensorIndex,
    gguf::{Array, Metadata, Value},
};

/// Our own key: all tokens that end a generation, where that is not exactly one.
const ALL_EOS: &str = "coffer.eos_token_ids";
/// Our own key: the family where it is not the architecture, for llama.cpp stores Mistral as `llama`.
const FAMILY: &str = "coffer.model_type";
/// Our own key: what scores are divided by the root of, where that is not what llama.cpp takes.
const QUERY_SCALAR: &str = "coffer.query_pre_attn_scalar";

impl ModelConfig {
    /// Reads GGUF metadata. Whether the output head is tied shows in `tensors` alone. `rope_divisors` are the values of
    /// `rope_freqs.weight`, the only place where llama.cpp keeps Llama 3's frequency scaling.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf`]; also if `rope_divisors` are not those of a published Llama 3 scaling.
    pub fn from_gguf(metadata: &Metadata, tensors: &TensorIndex, rope_divisors: Option<&[f32]>) -> Result<Self, ConfigError> {
        let named = metadata.string("general.architecture").ok_or_else(|| ConfigError::Missing("general.architecture".into()))?;
        let architecture = architecture(metadata, named)?;
        let fields = Fields { metadata, prefix: architecture.family().gguf };
        let experts = experts(&fields, architecture)?;
        let hidden = fields.size("embedding_length")?;
        let heads = fields.size("attention.head_count")?;
        let layers = fields.size("block_count")?;
        let head_dim = match fields.optional_size("attention.key_length")?.or(fields.optional_size("rope.dimension_count")?) {
            Some(n) => n,
            None if heads != 0 => hidden / heads,
            None => return Err(ConfigError::invalid("attention.head_count", 0, "must not be 0")),
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = fields.optional_size(key)?.filter(|&n| n != head_dim) {
                return Err(ConfigError::unsupported(key, other, "the width of one head"));
            }
        }
        let theta = fields.number("rope.freq_base")?.map_or(10_000.0, widen);
        Self {
            architecture,
            hidden,
            layers,
            heads,
            kv_heads: fields.optional_size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            ffn: match fields.optional_size("expert_feed_forward_length")?.filter(|_| experts.is_some()) {
                Some(ffn) => ffn,
                None => fields.size("feed_forward_length")?,
            },
            experts,
            vocab: vocab(&fields, tensors)?,
            context: fields.size("context_length")?,
            norm_eps: fields
                .number("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| ConfigError::Missing(fields.key("attention.layer_norm_rms_epsilon")))?,
            rope: RopeConfig { theta, scaling: scaling(&fields, theta, head_dim, rope_divisors)? },
            tie_embeddings: tensors.find("output.weight").is_none(),
            full_attention_every: match architecture.family().windows {
                Windows::AllBut { every } => Some(fields.optional_size("attention.sliding_window_pattern")?.unwrap_or(every)),
                _ => None,
            },
            window_theta: match architecture {
                Architecture::Gemma3 => Some(fields.number("rope.freq_base_swa")?.map_or(10_000.0, widen)),
                _ => None,
            },
            query_scalar: match metadata.get(QUERY_SCALAR).and_then(whole) {
                Some(scalar) => usize::try_from(scalar).unwrap_or(usize::MAX),
                None => query_scalar(architecture, layers, hidden, heads, head_dim),
            },
            score_bound: fields.number("attn_logit_softcapping")?,
            logit_bound: fields.number("final_logit_softcapping")?,
            sliding_window: fields.optional_size("attention.sliding_window")?.filter(|&n| n > 0),
            bos: token(metadata, "tokenizer.ggml.bos_token_id")?,
            eos: eos(metadata)?,
        }
        .checked()
    }

    /// Writes GGUF metadata. Llama 3's frequency scaling goes into a tensor: [`RopeScaling::llama3_divisors`].
    pub fn to_gguf(&self, metadata: &mut Metadata) {
        let family = self.architecture.family();
        let arch = family.gguf;
        let mut set = |key: &str, value| metadata.set(&format!("{arch}.{key}"), value);
        // `checked` bounds every size below 2^32.
        set("block_count", Value::U32(self.layers as u32));
        set("context_length", Value::U32(self.context as u32));
        set("embedding_length", Value::U32(self.hidden as u32));
        set("feed_forward_length", Value::U32(self.ffn as u32));
        if let Some(experts) = &self.experts {
            set("expert_count", Value::U32(experts.count as u32));
            set("expert_used_count", Value::U32(experts.chosen as u32));
            set("expert_feed_forward_length", Value::U32(self.ffn as u32));
            set("expert_weights_norm", Value::Bool(experts.normalized));
            if let Some(shared) = experts.shared {
                set("expert_shared_feed_forward_length", Value::U32(shared as u32));
            }
        }
        set("attention.head_count", Value::U32(self.heads as u32));
        set("attention.head_count_kv", Value::U32(self.kv_heads as u32));
        set("attention.key_length", Value::U32(self.head_dim as u32));
        set("attention.value_length", Value::U32(self.head_dim as u32));
        set("attention.layer_norm_rms_epsilon", Value::F32(self.norm_eps));
        set("rope.dimension_count", Value::U32(self.head_dim as u32));
        set("rope.freq_base", Value::F32(self.rope.theta as f32));
        if let RopeScaling::Linear { factor } = self.rope.scaling {
            set("rope.scaling.type", Value::String("linear".into()));
            set("rope.scaling.factor", Value::F32(factor as f32));
        }
        for (key, bound) in [("attn_logit_softcapping", self.score_bound), ("final_logit_softcapping", self.logit_bound)] {
            if let Some(bound) = bound {
                set(key, Value::F32(bound));
            }
        }
        if let Some(theta) = self.window_theta {
            set("rope.freq_base_swa", Value::F32(theta as f32));
        }
        if let Some(every) = self.full_attention_every {
            set("attention.sliding_window_pattern", Value::U32(every as u32));
        }
        if let Some(window) = self.sliding_window {
            set("attention.sliding_window", Value::U32(window as u32));
        }
        set("vocab_size", Value::U32(self.vocab as u32));
        metadata.set("general.architecture", Value::String(arch.into()));
        if family.model_type != arch {
            metadata.set(FAMILY, Value::String(family.model_type.into()));
        }
        let usual = query_scalar(self.architecture, self.layers, self.hidden, self.heads, self.head_dim);
        if self.query_scalar != usual {
            metadata.set(QUERY_SCALAR, Value::U32(self.query_scalar as u32));
        }
        if let Some(bos) = self.bos {
            metadata.set("tokenizer.ggml.bos_token_id", Value::U32(bos));
        }
        if let Some(&first) = self.eos.first() {
            metadata.set("tokenizer.ggml.eos_token_id", Value::U32(first));
        }
        if self.eos.len() != 1 {
            metadata.set(ALL_EOS, Value::Array(Array::U32(self.eos.clone())));
        }
    }
}

fn architecture(metadata: &Metadata, named: &str) -> Result<Architecture, ConfigError> {
    let experts = metadata.get(&format!("{named}.expert_count")).and_then(whole).is_some_and(|n| n > 0);
    let found = match metadata.string(FAMILY) {
        Some(family) => Architecture::ALL.into_iter().find(|a| a.family().gguf == named && a.family().model_type == family),
        None => unnamed(named, experts),
    };
    found.ok_or_else(|| ConfigError::Architecture(named.chars().take(80).collect()))
}

/// The family that a file without our own key is of.
fn unnamed(gguf: &str, experts: bool) -> Option<Architecture> {
    let has_experts = |a: &Architecture| a.family().experts != ExpertFields::None;
    Architecture::ALL.into_iter().find(|a| a.family().gguf == gguf && has_experts(a) == experts)
}

/// What llama.cpp takes, which GGUF has no key for: the width of a head, but for the largest of Gemma 2 and 3.
fn query_scalar(architecture: Architecture, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> usize {
    match (architecture, layers) {
        (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62) => hidden / heads.max(1),
        _ => head_dim,
    }
}

fn experts(fields: &Fields, architecture: Architecture) -> Result<Option<Experts>, ConfigError> {
    let described = architecture.family().experts;
    if described == ExpertFields::None {
        return Ok(None);
    }
    let normalized = match fields.get("expert_weights_norm") {
        Some(&Value::Bool(normalized)) => normalized,
        // What llama.cpp does, whatever the file says.
        _ => described != ExpertFields::Qwen { shared: true },
    };
    let shared = match described {
        ExpertFields::Qwen { shared: true } => Some(fields.size("expert_shared_feed_forward_length")?),
        _ => None,
    };
    Ok(Some(Experts { count: fields.size("expert_count")?, chosen: fields.size("expert_used_count")?, normalized, shared }))
}

/// Rows of the embedding, which the metadata may repeat.
fn vocab(fields: &Fields, tensors: &TensorIndex) -> Result<usize, ConfigError> {
    let named = fields.optional_size("vocab_size")?;
    let tokens = match fields.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) => Some(tokens.len()),
        _ => None,
    };
    let rows = tensors.find("token_embd.weight").map(|id| tensors.get(id).rows()).and_then(|n| usize::try_from(n).ok());
    rows.or(named).or(tokens).ok_or_else(|| ConfigError::Missing(fields.key("vocab_size")))
}

fn scaling(fields: &Fields, theta: f64, head_dim: usize, divisors: Option<&[f32]>) -> Result<RopeScaling, ConfigError> {
    let kind = fields.text("rope.scaling.type")?.unwrap_or("none");
    match (kind, divisors) {
        ("none", None) => Ok(RopeScaling::None),
        ("linear", None) => match fields.number("rope.scaling.factor")? {
            Some(factor) => Ok(RopeScaling::Linear { factor: widen(factor) }),
            None => Err(ConfigError::Missing(fields.key("rope.scaling.factor"))),
        },
        ("none", Some(divisors)) => llama3(theta, head_dim, divisors),
        (other, _) => Err(ConfigError::unsupported("rope.scaling.type", other, "none, linear")),
    }
}

/// The published Llama 3 scaling (Llama 3.1 and 3.2: bounds 1 and 4, 8192 tokens) that gives these divisors.
fn llama3(theta: f64, head_dim: usize, divisors: &[f32]) -> Result<RopeScaling, ConfigError> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    if divisors.iter().all(|&d| d == 1.0) {
        return Ok(RopeScaling::None);
    }
    let scaling =
        RopeScaling::Llama3 { factor: widen(factor), low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let expected = scaling.llama3_divisors(theta, head_dim).unwrap_or_default();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
    match expected.len() == divisors.len() && divisors.iter().zip(&expected).all(close) {
        true => Ok(scaling),
        false => Err(ConfigError::unsupported("rope_freqs.weight", "of an unknown kind", "the scaling of Llama 3.1 and 3.2")),
    }
}

fn token(metadata: &Metadata, key: &str) -> Result<Option<u32>, ConfigError> {
    match metadata.get(key) {
        None => Ok(None),
        Some(value) => whole(value)
            .and_then(|n| u32::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| ConfigError::invalid(key, "no token id", "must be a whole number below 2^32")),
    }
}

fn eos(metadata: &Metadata) -> Result<Vec<u32>, ConfigError> {
    if let Some(Value::Array(Array::U32(all))) = metadata.get(ALL_EOS) {
        return Ok(all.clone());
    }
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(token(metadata, &format!("tokenizer.ggml.{name}_token_id"))?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        _ => None,
    }
}

/// Keys under one architecture's prefix, read with checks.
struct Fields<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&self.key(key))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let size = |v| whole(v).and_then(|n| usize::try_from(n).ok());
        let wrong = || ConfigError::invalid(&self.key(key), "no whole number", "must be one number for all layers, not negative");
        self.get(key).map(|v| size(v).ok_or_else(wrong)).transpose()
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| ConfigError::Missing(self.key(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::F32(x)) => Ok(Some(x)),
            Some(&Value::F64(x)) => Ok(Some(x as f32)),
            Some(_) => Err(ConfigError::invalid(&self.key(key), "no float", "must be a float")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(ConfigError::invalid(&self.key(key), "no string", "must be a string")),
        }
    }
}
