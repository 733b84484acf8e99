//! The families of models: what files call them, and what their layers have that Llama's have not.

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
    /// Qwen 3: each head of Q and K is normalized before it is rotated.
    Qwen3,
    /// Phi 3 and 3.5, where positions are not scaled: Q, K and V are one tensor, gate and up another.
    Phi3,
    /// Mixtral: Mistral with experts.
    Mixtral,
    /// Qwen 1.5 and 2 with experts, and one that all tokens share.
    Qwen2Moe,
    /// Qwen 3 with experts.
    Qwen3Moe,
    /// Gemma 2: norms before and after each half of a block, bounded scores and logits, a window in every other layer.
    Gemma2,
    /// Gemma 3, text alone: Gemma 2 with normalized heads instead of bounds, a window in five of six layers.
    Gemma3,
}

/// What all models of a family have in common. A family is one such row.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Class in `architectures` of `config.json`.
    pub class: &'static str,
    /// `general.architecture` of a GGUF file. llama.cpp stores Mistral and Mixtral as `llama`.
    pub gguf: &'static str,
    /// Whether GGUF permutes the rows of Q and K.
    pub permuted: bool,
    /// Whether Q, K and V have biases.
    pub qkv_bias: bool,
    /// Whether each head of Q and K has a norm of its own.
    pub qk_norm: bool,
    /// Whether what each half of a block adds is normalized before it is added.
    pub post_norms: bool,
    /// Whether Hugging Face stores the weights of norms less 1.
    pub norms_less_one: bool,
    /// What gates the feed-forward layer.
    pub activation: Activation,
    /// Whether embeddings are multiplied by the root of their width.
    pub scaled_embedding: bool,
    /// Whether files keep Q, K and V in one tensor, and gate and up in another.
    pub stacked: bool,
    /// Whether Hugging Face names experts as Mixtral does.
    pub(crate) mixtral_names: bool,
    /// How `config.json` describes experts.
    pub(crate) experts: ExpertFields,
    /// Where `config.json` says which layers have a sliding window.
    pub(crate) windows: Windows,
    /// Width of a head where `config.json` gives none; `None`: the hidden size is shared out.
    pub(crate) head_dim: Option<usize>,
    /// Whether the output head is the embedding where `config.json` does not say.
    pub(crate) tied: bool,
}

/// What gates the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^−x).
    Silu,
    /// x · Φ(x), approximated by tanh.
    Gelu,
}

/// How `config.json` describes experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertFields {
    /// There are none.
    None,
    /// `num_local_experts`, as wide as `intermediate_size`; the weights of those chosen add up to 1.
    Mixtral,
    /// `num_experts`, as wide as `moe_intermediate_size`; `norm_topk_prob` says whether the weights of those chosen add up to 1.
    Qwen {
        /// Whether one more expert, as wide as `shared_expert_intermediate_size`, serves every token.
        shared: bool,
    },
}

/// Where `config.json` says which layers have a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// There are none.
    Never,
    /// `sliding_window`, for all layers, or this one where the field is absent.
    All {
        /// In tokens.
        default: Option<usize>,
    },
    /// `sliding_window`, if `use_sliding_window`, for the layers from `max_window_layers` on.
    Switched,
    /// `sliding_window`, for all layers but every n-th; `layer_types` says so again, `sliding_window_pattern` otherwise.
    AllBut {
        /// n.
        every: usize,
    },
}

/// Llama, from which the others are told apart.
const LLAMA: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    gguf: "llama",
    permuted: true,
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    norms_less_one: false,
    activation: Activation::Silu,
    scaled_embedding: false,
    stacked: false,
    mixtral_names: false,
    experts: ExpertFields::None,
    windows: Windows::Never,
    head_dim: None,
    tied: false,
};

const MISTRAL: Family =
    Family { model_type: "mistral", class: "MistralForCausalLM", windows: Windows::All { default: Some(4096) }, ..LLAMA };

const MIXTRAL: Family = Family {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    mixtral_names: true,
    experts: ExpertFields::Mixtral,
    windows: Windows::All { default: None },
    ..LLAMA
};

const PHI3: Family = Family {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    gguf: "phi3",
    permuted: false,
    stacked: true,
    windows: Windows::All { default: None },
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    gguf: "qwen2",
    permuted: false,
    qkv_bias: true,
    windows: Windows::Switched,
    ..LLAMA
};

const QWEN2_MOE: Family = Family {
    model_type: "qwen2_moe",
    class: "Qwen2MoeForCausalLM",
    gguf: "qwen2moe",
    experts: ExpertFields::Qwen { shared: true },
    ..QWEN2
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    gguf: "qwen3",
    qkv_bias: false,
    qk_norm: true,
    head_dim: Some(128),
    ..QWEN2
};

const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    gguf: "qwen3moe",
    experts: ExpertFields::Qwen { shared: false },
    head_dim: None,
    ..QWEN3
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    gguf: "gemma2",
    permuted: false,
    post_norms: true,
    norms_less_one: true,
    activation: Activation::Gelu,
    scaled_embedding: true,
    windows: Windows::AllBut { every: 2 },
    head_dim: Some(256),
    tied: true,
    ..LLAMA
};

const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    gguf: "gemma3",
    qk_norm: true,
    windows: Windows::AllBut { every: 6 },
    ..GEMMA2
};

impl Family {
    /// Canonical name of the norm before the feed-forward layer.
    pub fn ffn_norm(&self) -> &'static str {
        if self.post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" }
    }
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Phi3,
        Self::Mixtral,
        Self::Qwen2Moe,
        Self::Qwen3Moe,
        Self::Gemma2,
        Self::Gemma3,
    ];

    /// What its models have in common.
    pub fn family(self) -> &'static Family {
        match self {
            Self::Llama => &LLAMA,
            Self::Mistral => &MISTRAL,
            Self::Qwen2 => &QWEN2,
            Self::Qwen3 => &QWEN3,
            Self::Phi3 => &PHI3,
            Self::Mixtral => &MIXTRAL,
            Self::Qwen2Moe => &QWEN2_MOE,
            Self::Qwen3Moe => &QWEN3_MOE,
            Self::Gemma2 => &GEMMA2,
            Self::Gemma3 => &GEMMA3,
        }
    }

    /// The names of all, for error messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(|a| a.family().model_type).join(", ")
    }
}
