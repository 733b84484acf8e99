//! Names and row orders: canonical is Hugging Face's; GGUF renames, and permutes the rows of Q and K.

use crate::{Architecture, ModelConfig};

/// Tensors outside the blocks: canonical, GGUF.
const OUTSIDE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Modules of one block: canonical, GGUF.
const IN_BLOCK: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// GGUF name of a canonical name; `None` if there is none.
pub fn to_gguf(canonical: &str) -> Option<String> {
    if let Some((_, name)) = OUTSIDE.iter().find(|(c, _)| *c == canonical) {
        return Some((*name).to_owned());
    }
    let (block, module, part) = split(canonical, "model.layers.")?;
    let (_, name) = IN_BLOCK.iter().find(|(c, _)| *c == module)?;
    Some(format!("blk.{block}.{name}.{part}"))
}

/// Canonical name of a GGUF name; `None` if there is none.
pub fn from_gguf(name: &str) -> Option<String> {
    if let Some((canonical, _)) = OUTSIDE.iter().find(|(_, n)| *n == name) {
        return Some((*canonical).to_owned());
    }
    let (block, module, part) = split(name, "blk.")?;
    let (canonical, _) = IN_BLOCK.iter().find(|(_, n)| *n == module)?;
    Some(format!("model.layers.{block}.{canonical}.{part}"))
}

/// Heads over which GGUF permutes the rows of this canonical tensor; `None` if it keeps them in order.
pub fn permuted_heads(canonical: &str, config: &ModelConfig) -> Option<usize> {
    if config.architecture == Architecture::Qwen2 {
        return None;
    }
    match split(canonical, "model.layers.")?.1 {
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

/// Splits `<prefix><block>.<module>.<weight|bias>`; the block must be written in the one usual way.
fn split<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let block: usize = number.parse().ok()?;
    let (module, part) = rest.rsplit_once('.')?;
    (block.to_string() == number && matches!(part, "weight" | "bias")).then_some((block, module, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (canonical, gguf) in OUTSIDE {
            assert_eq!(to_gguf(canonical).as_deref(), Some(gguf));
            assert_eq!(from_gguf(gguf).as_deref(), Some(canonical));
        }
        for (canonical, gguf) in IN_BLOCK {
            let (canonical, gguf) = (format!("model.layers.11.{canonical}.weight"), format!("blk.11.{gguf}.weight"));
            assert_eq!(to_gguf(&canonical), Some(gguf.clone()));
            assert_eq!(from_gguf(&gguf), Some(canonical));
        }
    }

    #[test]
    fn strange_names_have_no_counterpart() {
        for name in
            ["model.layers.01.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.scale", "model.layers.x.mlp.up_proj.weight", ""]
        {
            assert_eq!(to_gguf(name), None, "{name}");
        }
        assert_eq!(from_gguf("blk.0.ffn_gate_exps.weight"), None);
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
