//! `config.json` and `generation_config.json`, with the key names of transformers 4 and 5.

use super::{ConfigError, Experts, ModelConfig, RopeConfig, RopeScaling, widen};
use crate::{
    Activation, Architecture,
    family::{ExpertFields, Windows},
};
use serde_json::{Map, Value, json};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const GELU: &str = "gelu_pytorch_tanh";

impl ModelConfig {
    /// Reads `config.json` (and `generation_config.json` for the end tokens), old and new key names.
    ///
    /// # Errors
    /// Returns [`ConfigError`] if a size is missing, out of bounds or contradicts another, or if the model needs
    /// something that the engine does not compute.
    pub fn from_hf(config: &[u8], generation: Option<&[u8]>) -> Result<Self, ConfigError> {
        let fields = Fields::parse(CONFIG, config)?;
        let architecture = architecture(&fields)?;
        fields.refuse_unsupported(architecture)?;
        let family = architecture.family();
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let layers = fields.size("num_hidden_layers")?;
        let kv_heads = match (fields.optional_size("num_key_value_heads")?, architecture) {
            (Some(n), _) => n,
            (None, Architecture::Llama | Architecture::Phi3) => heads,
            (None, _) => return Err(ConfigError::Missing("num_key_value_heads".into())),
        };
        let head_dim = match fields.optional_size("head_dim")?.or(family.head_dim) {
            Some(n) => n,
            None if heads != 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("must divide hidden_size, which is {hidden}, when head_dim is absent");
                return Err(ConfigError::invalid("num_attention_heads", heads, reason));
            }
        };
        let mut eos = fields.tokens("eos_token_id")?;
        if let Some(bytes) = generation {
            let generation = Fields::parse(GENERATION, bytes)?.tokens("eos_token_id")?;
            eos = if generation.is_empty() { eos } else { generation };
        }
        Self {
            architecture,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: fields.size(if matches!(family.experts, ExpertFields::Qwen { .. }) {
                "moe_intermediate_size"
            } else {
                "intermediate_size"
            })?,
            experts: experts(&fields, family.experts)?,
            vocab: fields.size("vocab_size")?,
            context: fields.size("max_position_embeddings")?,
            norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: rope(&fields)?,
            tie_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(family.tied),
            full_attention_every: full_attention_every(&fields, family.windows, layers)?,
            window_theta: window_theta(&fields, architecture)?,
            query_scalar: fields.optional_size("query_pre_attn_scalar")?.unwrap_or(match architecture {
                Architecture::Gemma2 | Architecture::Gemma3 => 256,
                _ => head_dim,
            }),
            score_bound: fields.number("attn_logit_softcapping")?.map(|bound| bound as f32),
            logit_bound: fields.number("final_logit_softcapping")?.map(|bound| bound as f32),
            sliding_window: sliding_window(&fields, family.windows, layers)?,
            bos: fields.tokens("bos_token_id")?.first().copied(),
            eos,
        }
        .checked()
    }

    /// Writes `config.json`; `dtype` is `bfloat16`, `float16` or `float32`.
    pub fn to_hf(&self, dtype: &str) -> String {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let family = self.architecture.family();
        let mut config = json!({
            "architectures": [family.class],
            "model_type": family.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "rms_norm_eps": widen(self.norm_eps),
            "rope_theta": self.rope.theta,
            "rope_scaling": rope_scaling(&self.rope.scaling),
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_embeddings,
            "torch_dtype": dtype,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        match (family.experts, &self.experts) {
            (_, None) | (ExpertFields::None, _) => {}
            (ExpertFields::Mixtral, Some(experts)) => {
                config["num_local_experts"] = json!(experts.count);
                config["num_experts_per_tok"] = json!(experts.chosen);
            }
            (ExpertFields::Qwen { .. }, Some(experts)) => {
                config["num_experts"] = json!(experts.count);
                config["num_experts_per_tok"] = json!(experts.chosen);
                config["norm_topk_prob"] = json!(experts.normalized);
                config["moe_intermediate_size"] = json!(self.ffn);
                config["shared_expert_intermediate_size"] = json!(experts.shared);
                config["decoder_sparse_step"] = json!(1);
                config["mlp_only_layers"] = json!([]);
            }
        }
        match family.windows {
            Windows::Never => {}
            Windows::All { .. } => config["sliding_window"] = json!(self.sliding_window),
            Windows::AllBut { .. } => {
                let full = |layer| if self.window(layer).is_none() { "full_attention" } else { "sliding_attention" };
                config["sliding_window"] = json!(self.sliding_window);
                config["layer_types"] = (0..self.layers).map(full).collect();
                config["query_pre_attn_scalar"] = json!(self.query_scalar);
                config["attn_logit_softcapping"] = json!(self.score_bound.map(widen));
                config["final_logit_softcapping"] = json!(self.logit_bound.map(widen));
                config["hidden_activation"] = json!(GELU);
                config["hidden_act"] = json!(GELU);
            }
            Windows::Switched => {
                config["use_sliding_window"] = json!(self.sliding_window.is_some());
                config["sliding_window"] = json!(self.sliding_window);
                config["max_window_layers"] = json!(if self.sliding_window.is_some() { 0 } else { self.layers });
            }
        }
        if matches!(self.architecture, Architecture::Llama | Architecture::Qwen3 | Architecture::Qwen3Moe) {
            config["attention_bias"] = json!(false);
        }
        if let Some(theta) = self.window_theta {
            config["rope_local_base_freq"] = json!(theta);
        }
        if self.architecture == Architecture::Phi3 {
            // There is one by default, which a small vocabulary has not.
            config["pad_token_id"] = Value::Null;
        }
        if self.architecture == Architecture::Llama {
            config["mlp_bias"] = json!(false);
        }
        format!("{config:#}\n")
    }
}

fn rope_scaling(scaling: &RopeScaling) -> Value {
    match *scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        }),
    }
}

fn architecture(fields: &Fields) -> Result<Architecture, ConfigError> {
    let class = fields.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let named = class.or(fields.text("model_type")?).ok_or_else(|| ConfigError::Missing("architectures".into()))?;
    Architecture::ALL
        .into_iter()
        .find(|a| named == a.family().class || named == a.family().model_type)
        .ok_or_else(|| ConfigError::Architecture(named.chars().take(80).collect()))
}

fn rope(fields: &Fields) -> Result<RopeConfig, ConfigError> {
    let nested = match (fields.get("rope_parameters"), fields.get("rope_scaling")) {
        (Some(v), _) | (None, Some(v)) => match v.get("full_attention").unwrap_or(v).as_object() {
            Some(map) => Fields { map: map.clone(), prefix: "rope_scaling." },
            None => return Err(ConfigError::invalid("rope_scaling", v, "must be an object")),
        },
        (None, None) => Fields { map: Map::new(), prefix: "rope_scaling." },
    };
    let theta = match nested.number("rope_theta")? {
        Some(theta) => theta,
        None => fields.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = nested.number("partial_rotary_factor")?.or(fields.number("partial_rotary_factor")?);
    if let Some(partial) = partial.filter(|&p| p != 1.0) {
        return Err(ConfigError::unsupported("partial_rotary_factor", partial, "1.0"));
    }
    let required = |key: &str| nested.number(key)?.ok_or_else(|| ConfigError::Missing(format!("rope_scaling.{key}")));
    let scaling = match nested.text("rope_type")?.or(nested.text("type")?) {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: required("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_context: nested.size("original_max_position_embeddings")? as u64,
        },
        Some(other) => return Err(ConfigError::unsupported("rope_scaling.rope_type", other, "default, linear, llama3")),
    };
    Ok(RopeConfig { theta, scaling })
}

fn experts(fields: &Fields, described: ExpertFields) -> Result<Option<Experts>, ConfigError> {
    match described {
        ExpertFields::None => Ok(None),
        ExpertFields::Mixtral => Ok(Some(Experts {
            count: fields.size("num_local_experts")?,
            chosen: fields.size("num_experts_per_tok")?,
            normalized: true,
            shared: None,
        })),
        ExpertFields::Qwen { shared } => {
            if let Some(step) = fields.optional_size("decoder_sparse_step")?.filter(|&step| step != 1) {
                return Err(ConfigError::unsupported("decoder_sparse_step", step, "1"));
            }
            if let Some(dense) = fields.get("mlp_only_layers").filter(|layers| layers.as_array().is_none_or(|l| !l.is_empty())) {
                return Err(ConfigError::unsupported("mlp_only_layers", dense, "none"));
            }
            Ok(Some(Experts {
                // transformers 5 writes the second name for Qwen 3.
                count: fields.optional_size("num_experts")?.map_or_else(|| fields.size("num_local_experts"), Ok)?,
                chosen: fields.size("num_experts_per_tok")?,
                normalized: fields.flag("norm_topk_prob")?.unwrap_or(false),
                shared: if shared { Some(fields.size("shared_expert_intermediate_size")?) } else { None },
            }))
        }
    }
}

/// Which layers have no window though the others have one.
fn full_attention_every(fields: &Fields, windows: Windows, layers: usize) -> Result<Option<usize>, ConfigError> {
    let Windows::AllBut { every } = windows else { return Ok(None) };
    let every = fields.optional_size("sliding_window_pattern")?.unwrap_or(every);
    let Some(types) = fields.get("layer_types") else { return Ok(Some(every)) };
    let types = types.as_array().ok_or_else(|| ConfigError::invalid("layer_types", "no list", "must be a list"))?;
    let every = match types.iter().position(|t| t == "full_attention") {
        Some(first) => first + 1,
        None => every.max(layers + 1),
    };
    let expected = |i: usize| if (i + 1).is_multiple_of(every) { "full_attention" } else { "sliding_attention" };
    match types.len() == layers && types.iter().enumerate().all(|(i, t)| t == expected(i)) {
        true => Ok(Some(every)),
        false => Err(ConfigError::unsupported("layer_types", "another pattern", "full_attention in every n-th layer")),
    }
}

/// Gemma 3 turns the heads of layers with a window by frequencies of their own.
fn window_theta(fields: &Fields, architecture: Architecture) -> Result<Option<f64>, ConfigError> {
    if architecture != Architecture::Gemma3 {
        return Ok(None);
    }
    let nested = fields.get("rope_parameters").and_then(|v| v.get("sliding_attention")).and_then(|v| v.get("rope_theta"));
    let theta = match nested {
        Some(theta) => theta.as_f64(),
        None => fields.number("rope_local_base_freq")?.or(Some(10_000.0)),
    };
    theta
        .map(Some)
        .ok_or_else(|| ConfigError::invalid("rope_parameters.sliding_attention.rope_theta", "no number", "must be a number"))
}

/// One window for all layers or for none: what mixes them is refused.
fn sliding_window(fields: &Fields, windows: Windows, layers: usize) -> Result<Option<usize>, ConfigError> {
    let window = match windows {
        Windows::All { default } if !fields.map.contains_key("sliding_window") => default,
        _ => fields.optional_size("sliding_window")?,
    };
    if let Some(types) = fields.get("layer_types").filter(|_| !matches!(windows, Windows::AllBut { .. })) {
        let types = types.as_array().ok_or_else(|| ConfigError::invalid("layer_types", "no list", "must be a list"))?;
        let sliding = types.iter().filter(|t| t.as_str() == Some("sliding_attention")).count();
        let full = types.iter().filter(|t| t.as_str() == Some("full_attention")).count();
        return match (sliding, full) {
            (0, n) if n == layers => Ok(None),
            (n, 0) if n == layers => Ok(window),
            _ => Err(ConfigError::unsupported("layer_types", "a mixture", "full_attention or sliding_attention in every layer")),
        };
    }
    match windows {
        Windows::Never => Ok(None),
        Windows::All { .. } | Windows::AllBut { .. } => Ok(window),
        Windows::Switched if fields.flag("use_sliding_window")? != Some(true) => Ok(None),
        Windows::Switched => match fields.optional_size("max_window_layers")?.unwrap_or(28) {
            0 => Ok(window),
            first if first >= layers => Ok(None),
            first => Err(ConfigError::unsupported("max_window_layers", first, "0, or at least num_hidden_layers")),
        },
    }
}

/// The fields of one JSON object, read with checks.
struct Fields {
    map: Map<String, Value>,
    prefix: &'static str,
}

impl Fields {
    fn parse(file: &'static str, bytes: &[u8]) -> Result<Self, ConfigError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { map, prefix: "" }),
            Ok(_) => Err(ConfigError::Json { file, reason: "must hold a JSON object".into() }),
            Err(e) => Err(ConfigError::Json { file, reason: format!("invalid JSON: {e}") }),
        }
    }

    /// A field that is neither absent nor null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, wanted: &str) -> ConfigError {
        let shown = self.map.get(key).map(|v| v.to_string().chars().take(60).collect::<String>()).unwrap_or_default();
        ConfigError::invalid(&format!("{}{key}", self.prefix), shown, format!("must be {wanted}"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a string"))).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        self.get(key).map(|v| size(v).ok_or_else(|| self.wrong(key, "a whole number that is not negative"))).transpose()
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| ConfigError::Missing(format!("{}{key}", self.prefix)))
    }

    /// Token ids: one, a list, or none.
    fn tokens(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| self.wrong(key, "token ids"));
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }

    fn refuse_unsupported(&self, architecture: Architecture) -> Result<(), ConfigError> {
        let supported = match architecture.family().activation {
            Activation::Silu => "silu",
            Activation::Gelu => GELU,
        };
        // Gemma's second name is the one that counts; the first may hold what it was before.
        let act = self.text("hidden_activation")?.or(self.text("hidden_act")?);
        if let Some(act) = act.filter(|&act| act != supported) {
            return Err(ConfigError::unsupported("hidden_act", act, supported));
        }
        if self.flag("use_bidirectional_attention")? == Some(true) {
            return Err(ConfigError::unsupported("use_bidirectional_attention", true, "false"));
        }
        if let Some(quantization) = self.get("quantization_config") {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("present");
            if method != "compressed-tensors" {
                let instead = "compressed-tensors, unquantized weights, or a GGUF file";
                return Err(ConfigError::unsupported("quantization_config", method, instead));
            }
        }
        if self.flag("qkv_bias")?.is_some_and(|biases| biases != architecture.family().qkv_bias) {
            return Err(ConfigError::unsupported("qkv_bias", !architecture.family().qkv_bias, "what the family has"));
        }
        let biases = if architecture.family().qkv_bias { &["mlp_bias"][..] } else { &["attention_bias", "mlp_bias"] };
        for key in biases {
            if self.flag(key)? == Some(true) {
                return Err(ConfigError::unsupported(key, true, "false"));
            }
        }
        Ok(())
    }
}
