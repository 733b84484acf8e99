//! Which tensor gets which type: llama.cpp's rules in GGUF, and in compressed-tensors those of its recipes.

use coffer_checkpoint::{DType, TensorInfo};
use coffer_model::{Architecture, ModelConfig};
use coffer_store::Target;
use std::{fmt, str::FromStr};

/// What people ask for: one type for most tensors and rules for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the field's own")]
#[expect(non_camel_case_types, reason = "GGUF writes Q4_K_M")]
pub enum Scheme {
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_1,
    Q5_K_M,
    Q5_K_S,
    Q5_0,
    Q4_1,
    Q4_K_M,
    Q4_K_S,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
    Q2_K_S,
    FP8,
    W8A8,
    W4A16_ASYM_G32,
    W4A16_G32,
    W4A16_ASYM,
    W4A16,
}

/// Canonical name of the output head.
pub(super) const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// What the rules ask beside a tensor's name and shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) config: &'a ModelConfig,
    /// The embedding is the output head.
    pub(super) tied: bool,
    /// The importance of columns is known.
    pub(super) importance: bool,
}

impl Scheme {
    /// All of them, of each container the largest first.
    pub const ALL: [Self; 25] = [
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_1,
        Self::Q5_K_M,
        Self::Q5_K_S,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_K_M,
        Self::Q4_K_S,
        Self::Q4_0,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::Q3_K_L,
        Self::Q3_K_M,
        Self::Q3_K_S,
        Self::Q2_K,
        Self::Q2_K_S,
        Self::FP8,
        Self::W8A8,
        Self::W4A16_ASYM_G32,
        Self::W4A16_G32,
        Self::W4A16_ASYM,
        Self::W4A16,
    ];

    /// The container that holds its types.
    pub fn target(self) -> Target {
        if self.main().is_compressed() { Target::HuggingFace } else { Target::Gguf }
    }

    /// The type of `tensor`.
    pub(super) fn dtype_of(self, tensor: &TensorInfo, facts: Facts<'_>) -> DType {
        self.choose(tensor, facts).0
    }

    /// The type of `tensor`, and why it gets that.
    pub(super) fn choose(self, tensor: &TensorInfo, facts: Facts<'_>) -> (DType, Why) {
        if self.main().is_compressed() {
            return self.in_hugging_face(tensor);
        }
        if tensor.shape.len() < 2 {
            return (DType::F32, Why::Vector);
        }
        // A router is small, and what it rounds away sends tokens to other experts.
        if is_router(&tensor.name) {
            return (DType::F32, Why::Router);
        }
        let main = self.main();
        if !main.is_quantized() {
            return (main, Why::Most);
        }
        let is_head = tensor.name == HEAD || facts.tied && tensor.name == EMBEDDING;
        let (wanted, why) = if is_head { (head(main, tensor.cols()), Why::Head) } else { self.inner(&tensor.name, facts) };
        let dtype = fitting(wanted, tensor.cols());
        (dtype, if dtype == wanted { why } else { Why::Narrow { wanted } })
    }

    /// Products are compressed but for the head and routers; all else keeps a float type.
    fn in_hugging_face(self, tensor: &TensorInfo) -> (DType, Why) {
        let kept = if tensor.dtype.is_quantized() { DType::BF16 } else { tensor.dtype };
        let is_table = tensor.name == HEAD || tensor.name == EMBEDDING || is_router(&tensor.name);
        if tensor.shape.len() < 2 {
            return (kept, Why::Vector);
        }
        if is_table {
            return (kept, Why::Table);
        }
        let main = self.main();
        let narrower = match main {
            DType::W4_G128 => DType::W4_G32,
            DType::W4Z_G128 => DType::W4Z_G32,
            other => other,
        };
        let fits = |d: &DType| tensor.cols().is_multiple_of(d.block_len() as u64);
        let why = if fits(&main) { Why::Most } else { Why::Narrow { wanted: main } };
        ([main, narrower].into_iter().find(fits).unwrap_or(kept), why)
    }

    /// The type of most matrices.
    pub(super) fn main(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::Q8_0 => DType::Q8_0,
            Self::Q6_K => DType::Q6_K,
            Self::Q5_1 => DType::Q5_1,
            Self::Q5_K_M | Self::Q5_K_S => DType::Q5_K,
            Self::Q5_0 => DType::Q5_0,
            Self::Q4_1 => DType::Q4_1,
            Self::Q4_K_M | Self::Q4_K_S => DType::Q4_K,
            Self::Q4_0 => DType::Q4_0,
            Self::IQ4_NL => DType::IQ4_NL,
            Self::IQ4_XS => DType::IQ4_XS,
            Self::Q3_K_L | Self::Q3_K_M | Self::Q3_K_S => DType::Q3_K,
            Self::Q2_K | Self::Q2_K_S => DType::Q2_K,
            Self::W4A16 => DType::W4_G128,
            Self::W4A16_G32 => DType::W4_G32,
            Self::W4A16_ASYM => DType::W4Z_G128,
            Self::W4A16_ASYM_G32 => DType::W4Z_G32,
            Self::W8A8 => DType::W8_ROW,
            Self::FP8 => DType::F8_ROW,
        }
    }

    /// Mixtures spend more bits on values and on the ways back into the stream, in the blocks where errors cost most.
    fn inner(self, name: &str, facts: Facts<'_>) -> (DType, Why) {
        let main = self.main();
        let Some(block) = block_of(name) else { return (main, Why::Most) };
        let Some(part) = Part::of(name, facts.config.architecture.family().stacked) else { return (main, Why::Most) };
        let dtype = self.of_part(part, block, facts);
        (dtype, if dtype == main { Why::Most } else { Why::Costly(part) })
    }

    fn of_part(self, part: Part, block: usize, facts: Facts<'_>) -> DType {
        let (config, main) = (facts.config, self.main());
        // Eight experts are so large that better attention costs little.
        let eight = config.experts.as_ref().is_some_and(|experts| experts.count == 8);
        let shared = config.heads / config.kv_heads.max(1) >= 4;
        let early = block < config.layers / 8;
        let more = gets_more_bits(block, config.layers);
        match (part, self) {
            (Part::Key | Part::Value, _) if eight => DType::Q8_0,
            (Part::Key, _) => main,

            (Part::Value, _) => {
                let dtype = match self {
                    Self::Q2_K | Self::Q2_K_S if shared => DType::Q4_K,
                    Self::Q2_K => DType::Q3_K,
                    Self::Q3_K_M if block >= 2 => DType::Q4_K,
                    Self::Q3_K_M | Self::Q3_K_L => DType::Q5_K,
                    Self::IQ4_NL | Self::IQ4_XS if shared => DType::Q5_K,
                    Self::Q4_K_S if block < 4 => DType::Q5_K,
                    Self::Q4_K_M | Self::Q5_K_M if more => DType::Q6_K,
                    _ => main,
                };
                // A 70 B Llama shares eight heads per value matrix: small, so better precision costs little.
                let llama_70b =
                    config.architecture == Architecture::Llama && config.layers == 80 && config.heads != config.kv_heads;
                if llama_70b && matches!(dtype, DType::Q3_K | DType::Q4_K) { DType::Q5_K } else { dtype }
            }

            (
                Part::Output,
                Self::Q2_K | Self::Q3_K_S | Self::Q3_K_M | Self::IQ4_NL | Self::IQ4_XS | Self::Q4_K_S | Self::Q4_K_M,
            ) if eight => DType::Q5_K,
            (Part::Output, _) if eight => main,
            (Part::Output, Self::Q2_K) => DType::Q3_K,
            (Part::Output, Self::Q3_K_M) => DType::Q4_K,
            (Part::Output, Self::Q3_K_L) => DType::Q5_K,

            (Part::Down, Self::Q2_K) => DType::Q3_K,
            (Part::Down, Self::Q2_K_S) if early => DType::Q4_K,
            (Part::Down, Self::Q3_K_M) if block < config.layers / 16 => DType::Q5_K,
            (Part::Down, Self::Q3_K_M) => DType::Q4_K,
            (Part::Down, Self::Q3_K_L) => DType::Q5_K,
            (Part::Down, Self::Q4_K_M | Self::Q5_K_M) if more => DType::Q6_K,
            (Part::Down, Self::Q4_K_S) if early => DType::Q5_K,
            (Part::Down, Self::IQ4_NL | Self::IQ4_XS) if early && !facts.importance => DType::Q5_K,
            (Part::Down, Self::Q4_0) if early && facts.importance => DType::Q4_1,
            (Part::Down, Self::Q5_0) if early && facts.importance => DType::Q5_1,

            (Part::Stacked, Self::Q3_K_M | Self::Q3_K_L) => DType::Q4_K,
            (Part::Stacked, Self::Q4_K_M) => DType::Q5_K,
            (Part::Stacked, Self::Q5_K_M) => DType::Q6_K,
            _ => main,
        }
    }
}

/// Why a tensor has its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is what most matrices get.
    Most,
    Vector,
    Router,
    Head,
    /// An embedding, head or router that engines want in floats.
    Table,
    /// Errors there cost more than bits.
    Costly(Part),
    /// Its rows do not fit the blocks of the wanted type.
    Narrow {
        wanted: DType,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Most => "what most matrices get",
            Self::Vector => "a vector: small, so it is not rounded",
            Self::Router => "a router: small, and its errors send tokens to other experts",
            Self::Head => "the output head: every answer passes it",
            Self::Table => "a table or router, which engines want in floats",
            Self::Costly(Part::Key | Part::Value) => "attention's values: errors cost much in this block, bits little",
            Self::Costly(Part::Output | Part::Down) => "a way back into the stream: errors cost much in this block",
            Self::Costly(Part::Stacked) => "queries, keys and values in one tensor",
            Self::Narrow { wanted } => {
                return write!(f, "its rows are no multiple of {wanted}'s blocks of {}", wanted.block_len());
            }
        })
    }
}

/// The products that rules single out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
    /// Queries, keys and values in one tensor.
    Stacked,
    Output,
    Down,
}

impl Part {
    fn of(name: &str, stacked: bool) -> Option<Self> {
        let module = name.strip_suffix("_proj.weight")?;
        Some(match module.rsplit('.').next()? {
            "q" | "k" | "v" if stacked => Self::Stacked,
            "k" => Self::Key,
            "v" => Self::Value,
            "o" => Self::Output,
            "down" => Self::Down,
            _ => return None,
        })
    }
}

pub(super) fn is_router(name: &str) -> bool {
    name.ends_with(".mlp.gate.weight") || name.ends_with(".mlp.shared_expert_gate.weight")
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Scheme {
    type Err = String;
    /// Upper or lower case; the error names all schemes.
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|q| q.to_string().eq_ignore_ascii_case(s)).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(Self::to_string).collect();
            format!("type {s} is not supported; supported: {}", all.join(", "))
        })
    }
}

/// The output head gets six bits at least.
fn head(main: DType, cols: u64) -> DType {
    let whole = cols.is_multiple_of(main.block_len() as u64);
    if whole && main != DType::Q8_0 { DType::Q6_K } else { DType::Q8_0 }
}

/// `dtype`, or its replacement where `cols` is no multiple of its block.
pub(super) fn fitting(dtype: DType, cols: u64) -> DType {
    let fits = |d: DType| cols.is_multiple_of(d.block_len() as u64);
    let fallback = match dtype {
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::IQ4_XS => DType::IQ4_NL,
        other => other,
    };
    if fits(dtype) {
        dtype
    } else if fits(fallback) {
        fallback
    } else {
        DType::F16
    }
}

/// The first and last eighth of the blocks, and every third between.
fn gets_more_bits(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2
}

fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use coffer_model::{Experts, RopeConfig, config::RopeScaling};

    pub(in crate::quantize) fn config(layers: usize) -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            hidden: 256,
            layers,
            heads: 8,
            kv_heads: 4,
            head_dim: 32,
            ffn: 768,
            experts: None,
            vocab: 4096,
            context: 1024,
            norm_eps: 1e-5,
            rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
            tie_embeddings: false,
            sliding_window: None,
            full_attention_every: None,
            window_theta: None,
            query_scalar: 32,
            score_bound: None,
            logit_bound: None,
            bos: None,
            eos: vec![],
        }
    }

    fn dtype(scheme: Scheme, name: &str, cols: u64, layers: usize, tied: bool) -> DType {
        let shape = vec![64, cols];
        let facts = Facts { config: &config(layers), tied, importance: false };
        scheme.dtype_of(&TensorInfo { name: name.into(), dtype: DType::BF16, shape }, facts)
    }

    /// As llama-quantize wrote scribe-8m, a model of 8 blocks.
    #[test]
    fn q4_k_m_spends_more_on_the_blocks_that_llama_quantize_spends_it_on() {
        for part in ["self_attn.v_proj", "mlp.down_proj"] {
            let more =
                |i: &usize| dtype(Scheme::Q4_K_M, &format!("model.layers.{i}.{part}.weight"), 256, 8, false) == DType::Q6_K;
            assert_eq!((0..8).filter(more).collect::<Vec<_>>(), [0, 3, 6, 7]);
        }
        assert_eq!(dtype(Scheme::Q4_K_M, "model.layers.0.mlp.up_proj.weight", 256, 8, false), DType::Q4_K);
        let value = "model.layers.20.self_attn.v_proj.weight";
        assert_eq!(dtype(Scheme::Q4_K_M, value, 8192, 80, false), DType::Q5_K);
    }

    #[test]
    fn experts_and_stacks_are_treated_as_llama_quantize_does() {
        let of = |config: &ModelConfig, name: &str| {
            let name = format!("model.layers.1.{name}.weight");
            let facts = Facts { config, tied: false, importance: false };
            Scheme::Q4_K_M.dtype_of(&TensorInfo { name, dtype: DType::BF16, shape: vec![64, 256] }, facts)
        };
        let experts = |count| Some(Experts { count, chosen: 2, normalized: true, shared: None });
        let mixtral = ModelConfig { architecture: Architecture::Mixtral, experts: experts(8), ..config(8) };
        let types = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate"];
        assert_eq!(types.map(|name| of(&mixtral, name)), [DType::Q4_K, DType::Q8_0, DType::Q8_0, DType::Q5_K, DType::F32]);
        let many = ModelConfig { architecture: Architecture::Qwen3Moe, experts: experts(128), ..config(8) };
        assert_eq!(types.map(|name| of(&many, name)), [DType::Q4_K, DType::Q4_K, DType::Q4_K, DType::Q4_K, DType::F32]);
        let phi3 = ModelConfig { architecture: Architecture::Phi3, ..config(8) };
        assert_eq!(types[..3].iter().map(|name| of(&phi3, name)).collect::<Vec<_>>(), [DType::Q5_K; 3]);
    }

    #[test]
    fn the_head_gets_six_bits_and_a_tied_embedding_is_the_head() {
        for scheme in [Scheme::Q4_K_M, Scheme::Q4_0, Scheme::Q6_K] {
            assert_eq!(dtype(scheme, HEAD, 256, 8, false), DType::Q6_K);
            assert_eq!(dtype(scheme, HEAD, 576, 8, false), DType::Q8_0);
            assert_eq!(dtype(scheme, EMBEDDING, 256, 8, true), DType::Q6_K);
        }
        assert_eq!(dtype(Scheme::Q4_K_M, EMBEDDING, 256, 8, false), DType::Q4_K);
        assert_eq!(dtype(Scheme::Q8_0, HEAD, 256, 8, false), DType::Q8_0);
    }

    #[test]
    fn rows_that_are_no_multiple_of_the_block_fall_back() {
        let up = |scheme, cols| dtype(scheme, "model.layers.1.mlp.up_proj.weight", cols, 8, false);
        assert_eq!(up(Scheme::Q4_K_M, 576), DType::Q5_0);
        assert_eq!(up(Scheme::Q5_K_M, 576), DType::Q5_1);
        assert_eq!(up(Scheme::Q6_K, 576), DType::Q8_0);
        assert_eq!(up(Scheme::Q8_0, 48), DType::F16);
        assert_eq!(up(Scheme::Q4_K_M, 48), DType::F16);
        assert_eq!(up(Scheme::BF16, 48), DType::BF16);
    }

    #[test]
    fn vectors_are_f32_in_gguf_and_as_they_were_elsewhere() {
        let norm = TensorInfo { name: "model.norm.weight".into(), dtype: DType::BF16, shape: vec![256] };
        let facts = Facts { config: &config(8), tied: false, importance: false };
        for scheme in Scheme::ALL {
            let wanted = if scheme.target() == Target::Gguf { DType::F32 } else { DType::BF16 };
            assert_eq!(scheme.dtype_of(&norm, facts), wanted, "{scheme}");
        }
    }

    #[test]
    fn for_vllm_products_are_compressed_in_the_widest_groups_that_fit_and_tables_stay() {
        let of = |scheme: Scheme, name: &str, cols| dtype(scheme, name, cols, 8, true);
        let up = "model.layers.0.mlp.up_proj.weight";
        assert_eq!([256, 96, 40].map(|cols| of(Scheme::W4A16, up, cols)), [DType::W4_G128, DType::W4_G32, DType::BF16]);
        assert_eq!([256, 96].map(|cols| of(Scheme::W4A16_ASYM, up, cols)), [DType::W4Z_G128, DType::W4Z_G32]);
        assert_eq!([256, 96, 40].map(|cols| of(Scheme::FP8, up, cols)), [DType::F8_ROW, DType::F8_ROW, DType::BF16]);
        for table in [HEAD, EMBEDDING, "model.layers.0.mlp.gate.weight"] {
            assert_eq!(of(Scheme::W8A8, table, 256), DType::BF16, "{table}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_others_refused() {
        assert!(Scheme::ALL.iter().all(|s| s.to_string().to_lowercase().parse() == Ok(*s)));
        assert!("Q3_X".parse::<Scheme>().unwrap_err().contains("Q4_K_M"));
    }
}
