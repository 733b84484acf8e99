//! Where containers keep a canonical tensor. Canonical are the names of Llama and, for experts, Qwen; a container may call a tensor
//! otherwise, stack several in one, and permute the rows of Q and K.

use crate::{Family, ModelConfig};

/// Tensors outside the blocks: canonical, GGUF.
const OUTSIDE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Modules of one block: canonical, GGUF.
const IN_BLOCK: [(&str, &str); 16] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// Norms of families that have one after each half of a block too; the first is called as another family's second.
const SANDWICH: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Modules that several canonical ones are stacked in, in the families that do that: Hugging Face, GGUF.
const QKV: (&str, &str) = ("self_attn.qkv_proj", "attn_qkv");
const GATE_UP: (&str, &str) = ("mlp.gate_up_proj", "ffn_up");

/// A part of an expert: canonical, Mixtral, GGUF's stack of all experts.
const IN_EXPERT: [(&str, &str, &str); 3] =
    [("gate_proj", "w1", "ffn_gate_exps"), ("up_proj", "w3", "ffn_up_exps"), ("down_proj", "w2", "ffn_down_exps")];

/// Where a container keeps a canonical tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name in the container.
    pub name: String,
    /// Shape of what has that name.
    pub shape: Vec<u64>,
    /// Its first row that belongs to the canonical tensor.
    pub first: u64,
}

/// Where a Hugging Face directory keeps the canonical tensor of this name and shape.
pub fn in_hugging_face(canonical: &str, shape: &[u64], config: &ModelConfig) -> Place {
    let whole = || Place { name: canonical.to_owned(), shape: shape.to_vec(), first: 0 };
    let Some(Module { block, module, part }) = Module::of(canonical) else { return whole() };
    let name = |module: &str| format!("model.layers.{block}.{module}.{part}");
    let family = config.architecture.family();
    if let Some((stack, first, rows)) = stacked(module, family, config) {
        return Place { name: name(stack.0), shape: with_rows(shape, rows), first };
    }
    if family.mixtral_names {
        let expert = expert(module).and_then(|(expert, part)| Some((expert, IN_EXPERT.iter().find(|p| p.0 == part)?)));
        match expert {
            Some((expert, part)) => {
                return Place { name: name(&format!("block_sparse_moe.experts.{expert}.{}", part.1)), ..whole() };
            }
            None if module == "mlp.gate" => return Place { name: name("block_sparse_moe.gate"), ..whole() },
            None => {}
        }
    }
    whole()
}

/// Where GGUF keeps the canonical tensor of this name and shape; `None` if it has no name for it.
pub fn in_gguf(canonical: &str, shape: &[u64], config: &ModelConfig) -> Option<Place> {
    let whole = |name: String| Place { name, shape: shape.to_vec(), first: 0 };
    if let Some((_, name)) = OUTSIDE.iter().find(|(c, _)| *c == canonical) {
        return Some(whole((*name).to_owned()));
    }
    let Module { block, module, part } = Module::of(canonical)?;
    let name = |module: &str| format!("blk.{block}.{module}.{part}");
    if let Some((stack, first, rows)) = stacked(module, config.architecture.family(), config) {
        return Some(Place { name: name(stack.1), shape: with_rows(shape, rows), first });
    }
    if let Some((expert, part)) = expert(module) {
        let (_, _, stack) = IN_EXPERT.iter().find(|p| p.0 == part)?;
        let (experts, rows) = (config.experts.as_ref()?.count as u64, *shape.first()?);
        let shape = [&[experts], shape].concat();
        return Some(Place { name: name(stack), shape, first: rows.checked_mul(expert)? });
    }
    let sandwich = SANDWICH.iter().filter(|_| config.architecture.family().post_norms);
    let (_, gguf) = sandwich.chain(&IN_BLOCK).find(|(c, _)| *c == module)?;
    match shape {
        // A product with one row is kept as a vector.
        [1, cols] => Some(Place { name: name(gguf), shape: vec![*cols], first: 0 }),
        _ => Some(whole(name(gguf))),
    }
}

/// Heads over which GGUF permutes the rows of this canonical tensor; `None` if it keeps them in order.
pub fn permuted_heads(canonical: &str, config: &ModelConfig) -> Option<usize> {
    if !config.architecture.family().permuted {
        return None;
    }
    match Module::of(canonical)?.module {
        "self_attn.q_proj" => Some(config.heads),
        "self_attn.k_proj" => Some(config.kv_heads),
        _ => None,
    }
}

/// Row of the GGUF tensor that holds canonical `row`, for a tensor of `rows` rows permuted over `heads`.
///
/// Hugging Face pairs row `i` of a head with row `i + d/2` for its rotation; GGUF puts the two beside each other.
pub fn gguf_row(row: u64, rows: u64, heads: usize) -> u64 {
    let width = rows / heads as u64;
    let (head, within) = (row / width, row % width);
    let (half, pair) = (within / (width / 2), within % (width / 2));
    head * width + pair * 2 + half
}

/// The stack that holds this module, its first row there, and the rows of the stack.
fn stacked(module: &str, family: &Family, config: &ModelConfig) -> Option<((&'static str, &'static str), u64, u64)> {
    let (q, kv) = ((config.heads * config.head_dim) as u64, (config.kv_heads * config.head_dim) as u64);
    let ffn = config.ffn as u64;
    match module {
        _ if !family.stacked => None,
        "self_attn.q_proj" => Some((QKV, 0, q + 2 * kv)),
        "self_attn.k_proj" => Some((QKV, q, q + 2 * kv)),
        "self_attn.v_proj" => Some((QKV, q + kv, q + 2 * kv)),
        "mlp.gate_proj" => Some((GATE_UP, 0, 2 * ffn)),
        "mlp.up_proj" => Some((GATE_UP, ffn, 2 * ffn)),
        _ => None,
    }
}

fn with_rows(shape: &[u64], rows: u64) -> Vec<u64> {
    [&[rows], shape.get(1..).unwrap_or_default()].concat()
}

/// Number of the expert, and the part of it that this module is.
fn expert(module: &str) -> Option<(u64, &str)> {
    let (number, part) = module.strip_prefix("mlp.experts.")?.split_once('.')?;
    Some((number.parse().ok()?, part))
}

/// A canonical name `model.layers.<block>.<module>.<weight|bias>`; the block must be written in the one usual way.
struct Module<'a> {
    block: usize,
    module: &'a str,
    part: &'a str,
}

impl<'a> Module<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (number, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let block: usize = number.parse().ok()?;
        let (module, part) = rest.rsplit_once('.')?;
        (block.to_string() == number && matches!(part, "weight" | "bias")).then_some(Self { block, module, part })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerGraph;
    use std::collections::{BTreeMap, HashSet};

    fn config(fields: &str) -> ModelConfig {
        let json = format!(
            r#"{{{fields},"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
            "intermediate_size":96,"vocab_size":100,"max_position_embeddings":128}}"#
        );
        ModelConfig::from_hf(json.as_bytes(), None).unwrap()
    }

    fn gguf(canonical: &str, config: &ModelConfig) -> Option<String> {
        in_gguf(canonical, &[8, 8], config).map(|place| place.name)
    }

    #[test]
    fn every_name_has_one_counterpart() {
        let all = OUTSIDE.iter().chain(&IN_BLOCK);
        for of in [|pair: &(&'static str, &'static str)| pair.0, |pair: &(&'static str, &'static str)| pair.1] {
            assert_eq!(all.clone().map(of).collect::<HashSet<_>>().len(), OUTSIDE.len() + IN_BLOCK.len());
        }
        let llama = config(r#""model_type":"llama""#);
        assert_eq!(gguf("lm_head.weight", &llama).as_deref(), Some("output.weight"));
        assert_eq!(gguf("model.layers.11.self_attn.q_proj.bias", &llama).as_deref(), Some("blk.11.attn_q.bias"));
    }

    #[test]
    fn strange_names_have_no_counterpart() {
        let llama = config(r#""model_type":"llama""#);
        for name in
            ["model.layers.01.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.scale", "model.layers.x.mlp.up_proj.weight", ""]
        {
            assert_eq!(gguf(name, &llama), None, "{name}");
        }
    }

    /// In the order of the graph, canonical tensors fill what the containers keep, without gaps and one after the other.
    #[test]
    fn places_fill_what_is_stored() {
        let experts = r#""num_experts":3,"num_experts_per_tok":2,"moe_intermediate_size":32,"num_local_experts":3"#;
        for family in ["llama", "qwen3", "phi3", "mixtral", "qwen2_moe", "qwen3_moe", "gemma2", "gemma3_text"] {
            let config = config(&format!(r#""model_type":"{family}",{experts},"shared_expert_intermediate_size":48"#));
            let (mut hf, mut gguf) = (BTreeMap::new(), BTreeMap::new());
            for node in LayerGraph::of(&config).nodes() {
                let gguf_place = in_gguf(&node.weight, &node.shape, &config).unwrap();
                for (stored, place) in [(&mut hf, in_hugging_face(&node.weight, &node.shape, &config)), (&mut gguf, gguf_place)] {
                    let (filled, shape) = stored.entry(place.name.clone()).or_insert((0, place.shape.clone()));
                    assert_eq!((&place.shape, place.first * node.shape.last().unwrap()), (&*shape, *filled), "{}", node.weight);
                    *filled += node.shape.iter().product::<u64>();
                }
            }
            for (name, (filled, shape)) in hf.iter().chain(&gguf) {
                assert_eq!(*filled, shape.iter().product::<u64>(), "{family}: {name}");
            }
            let norms = hf.keys().filter(|name| name.contains("norm")).count();
            let of_a_layer = match family {
                "gemma3_text" => 6,
                "qwen3" | "qwen3_moe" | "gemma2" => 4,
                _ => 2,
            };
            assert_eq!(norms, 2 * of_a_layer + 1, "{family}");
        }
    }

    #[test]
    fn rows_are_permuted_as_llama_cpp_does() {
        // reshape(heads, 2, d/2).swapaxes(1, 2) of 0..12 over two heads of width 6.
        let swapped = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        for (at, canonical) in swapped.into_iter().enumerate() {
            assert_eq!(gguf_row(canonical, 12, 2), at as u64);
        }
    }
}
