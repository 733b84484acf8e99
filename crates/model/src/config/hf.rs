//! `config.json` and `generation_config.json`, with the key names of transformers 4 and 5.

use super::{Architecture, ConfigError, ModelConfig, RopeConfig, RopeScaling, widen};
use serde_json::{Map, Value, json};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

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
        let hidden = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let layers = fields.size("num_hidden_layers")?;
        let kv_heads = match (fields.optional_size("num_key_value_heads")?, architecture) {
            (Some(n), _) => n,
            (None, Architecture::Llama) => heads,
            (None, _) => return Err(ConfigError::Missing("num_key_value_heads".into())),
        };
        let head_dim = match fields.optional_size("head_dim")? {
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
            ffn: fields.size("intermediate_size")?,
            vocab: fields.size("vocab_size")?,
            context: fields.size("max_position_embeddings")?,
            norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: rope(&fields)?,
            tie_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: architecture == Architecture::Qwen2,
            sliding_window: sliding_window(&fields, architecture, layers)?,
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
        let mut config = json!({
            "architectures": [self.architecture.class()],
            "model_type": self.architecture.model_type(),
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
        match self.architecture {
            Architecture::Llama => {
                config["attention_bias"] = json!(false);
                config["mlp_bias"] = json!(false);
            }
            Architecture::Mistral => config["sliding_window"] = json!(self.sliding_window),
            Architecture::Qwen2 => {
                config["use_sliding_window"] = json!(self.sliding_window.is_some());
                config["sliding_window"] = json!(self.sliding_window);
                config["max_window_layers"] = json!(if self.sliding_window.is_some() { 0 } else { self.layers });
            }
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
        .find(|a| named == a.class() || named == a.model_type())
        .ok_or_else(|| ConfigError::Architecture(named.chars().take(80).collect()))
}

fn rope(fields: &Fields) -> Result<RopeConfig, ConfigError> {
    let nested = match (fields.get("rope_parameters"), fields.get("rope_scaling")) {
        (Some(v), _) | (None, Some(v)) => match v.as_object() {
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

/// One window for all layers or for none: what mixes them is refused.
fn sliding_window(fields: &Fields, architecture: Architecture, layers: usize) -> Result<Option<usize>, ConfigError> {
    let window = match (fields.get("sliding_window"), architecture) {
        (None, Architecture::Mistral) if !fields.map.contains_key("sliding_window") => Some(4096),
        _ => fields.optional_size("sliding_window")?,
    };
    if let Some(types) = fields.get("layer_types") {
        let types = types.as_array().ok_or_else(|| ConfigError::invalid("layer_types", "no list", "must be a list"))?;
        let sliding = types.iter().filter(|t| t.as_str() == Some("sliding_attention")).count();
        let full = types.iter().filter(|t| t.as_str() == Some("full_attention")).count();
        return match (sliding, full) {
            (0, n) if n == layers => Ok(None),
            (n, 0) if n == layers => Ok(window),
            _ => Err(ConfigError::unsupported("layer_types", "a mixture", "full_attention or sliding_attention in every layer")),
        };
    }
    match architecture {
        Architecture::Llama => Ok(None),
        Architecture::Mistral => Ok(window),
        Architecture::Qwen2 if fields.flag("use_sliding_window")? != Some(true) => Ok(None),
        Architecture::Qwen2 => match fields.optional_size("max_window_layers")?.unwrap_or(28) {
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
        if let Some(act) = self.text("hidden_act")?.filter(|&a| a != "silu") {
            return Err(ConfigError::unsupported("hidden_act", act, "silu"));
        }
        if let Some(quantization) = self.get("quantization_config") {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("present");
            return Err(ConfigError::unsupported("quantization_config", method, "unquantized weights, or a GGUF file"));
        }
        let biases = if architecture == Architecture::Qwen2 { &["mlp_bias"][..] } else { &["attention_bias", "mlp_bias"] };
        for key in biases {
            if self.flag(key)? == Some(true) {
                return Err(ConfigError::unsupported(key, true, "false"));
            }
        }
        Ok(())
    }
}
