//! Names and row orders: canonical is Hugging Face's; GGUF renames, and permutes the rows of Q and K.

use crate::ModelConfig;

/// GGUF name of a canonical name; `None` if there is none.
pub fn to_gguf(canonical: &str) -> Option<String> {
    let _ = canonical;
    todo!()
}

/// Canonical name of a GGUF name; `None` if there is none.
pub fn from_gguf(name: &str) -> Option<String> {
    let _ = name;
    todo!()
}

/// Heads over which GGUF permutes the rows of this canonical tensor; `None` if it keeps them in order.
pub fn permuted_heads(canonical: &str, config: &ModelConfig) -> Option<usize> {
    let _ = (canonical, config);
    todo!()
}

/// Row of the GGUF tensor that holds canonical `row`, for a tensor of `rows` rows permuted over `heads`.
pub fn gguf_row(row: u64, rows: u64, heads: usize) -> u64 {
    let _ = (row, rows, heads);
    todo!()
}
