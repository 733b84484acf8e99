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
}

/// Llama, from which the others are told apart.
const LLAMA: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    gguf: "llama",
    permuted: true,
    qkv_bias: false,
    qk_norm: false,
    stacked: false,
    mixtral_names: false,
    experts: ExpertFields::None,
    windows: Windows::Never,
    head_dim: None,
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

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Phi3, Self::Mixtral, Self::Qwen2Moe, Self::Qwen3Moe];

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
        }
    }

    /// The names of all, for error messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(|a| a.family().model_type).join(", ")
    }
}
