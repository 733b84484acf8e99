//! How speed changes with the context and with the number of sequences, as a table and a picture.

use super::{
    Row, llama, ours,
    plot::{Line, Panel, draw},
};
use crate::peers::Peers;
use anyhow::{Context, Result};
use coffer_kernels::Isa;
use std::path::Path;

const DECODE: usize = 32;
/// Positions before a decoded token.
const DEPTHS: [usize; 6] = [0, 512, 1024, 2048, 4096, 8192 - DECODE - 1];
/// Sequences that decode together, 128 positions in.
const SEQUENCES: [usize; 6] = [1, 2, 4, 8, 16, 32];
const DEPTH: usize = 128;

/// SmolLM2 beside llama-bench and llama-batched-bench; the picture goes to `out`.
pub(super) fn rows(peers: &Peers, repeat: usize, out: &Path, row: &mut dyn FnMut(Row)) -> Result<()> {
    let (gguf, bench) = (peers.smollm2()?, peers.llama("llama-bench")?);
    let engine = ours::load(&gguf, Isa::detect()?)?;
    let mut by_depth = [Vec::new(), Vec::new()];
    for depth in DEPTHS {
        let (ours, peer) = super::alternate(
            repeat,
            || ours::decode(&engine, 1, DECODE, depth),
            || llama::bench(&bench, &gguf, 0, DECODE, depth),
        )?;
        by_depth[0].push((depth as f64, 1e3 / ours));
        by_depth[1].push((depth as f64, 1e3 / peer));
        row(Row::rate(format!("decode after {depth} positions"), ours, peer, "tok/s"));
    }
    let mut by_batch = [Vec::new(), Vec::new()];
    let theirs = llama::batched(peers, &gguf, &SEQUENCES, DECODE, DEPTH)?;
    for (sequences, peer) in SEQUENCES.into_iter().zip(theirs) {
        let [ours] = super::rotate(repeat, [&mut || ours::decode(&engine, sequences, DECODE, DEPTH)])?;
        by_batch[0].push((sequences as f64, ours));
        by_batch[1].push((sequences as f64, peer));
        row(Row::rate(format!("decode of {sequences} sequences"), ours, peer, "tok/s"));
    }
    let lines = |[ours, peer]: [Vec<_>; 2]| vec![Line { name: "Coffer", points: ours }, Line { name: "llama.cpp", points: peer }];
    let panels = [
        Panel { title: "milliseconds for a token, by positions before it", lines: lines(by_depth) },
        Panel { title: "tokens a second of all, by sequences at a time", lines: lines(by_batch) },
    ];
    std::fs::write(out, draw(&panels)).with_context(|| out.display().to_string())
}
