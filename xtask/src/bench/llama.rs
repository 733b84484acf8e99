//! The peer's own benchmarks.

use super::THREADS;
use crate::peers::{Peers, output};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{path::Path, process::Command};

/// Attention in one pass over the cache or in several: which is faster depends on the machine and the depth.
const FLASH_ATTENTION: [&str; 2] = ["0", "1"];

/// llama-bench's tokens a second for `prefill` or `decode` tokens after `depth` positions, in the faster of its two ways of attention.
pub(super) fn bench(tool: &Path, gguf: &Path, prefill: usize, decode: usize, depth: usize) -> Result<f64> {
    let [threads, prefill, decode, depth] = [THREADS, prefill, decode, depth].map(|n| n.to_string());
    let mut bench = Command::new(tool);
    bench.arg("-m").arg(gguf).args(["-t", &threads, "-p", &prefill, "-n", &decode, "-d", &depth, "-r", "1", "-o", "json"]);
    let printed: Value = serde_json::from_str(&output(bench.args(["-fa", &FLASH_ATTENTION.join(",")]))?)?;
    let rates = printed.as_array().context("llama-bench prints a list")?.iter().map(|run| run["avg_ts"].as_f64());
    rates.collect::<Option<Vec<_>>>().and_then(|r| r.into_iter().reduce(f64::max)).context("llama-bench prints avg_ts")
}

/// llama-batched-bench's tokens a second of all sequences for each number of `sequences`, `decode` tokens each after `depth` positions.
pub(super) fn batched(peers: &Peers, gguf: &Path, sequences: &[usize], decode: usize, depth: usize) -> Result<Vec<f64>> {
    let tool = peers.llama("llama-batched-bench")?;
    let most = sequences.iter().max().context("a number of sequences")?;
    let [threads, context, decode, depth] = [THREADS, most * (depth + decode), decode, depth].map(|n| n.to_string());
    let list = sequences.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut best = vec![0.0f64; sequences.len()];
    for attention in FLASH_ATTENTION {
        let mut bench = Command::new(&tool);
        bench.arg("-m").arg(gguf).args(["-t", &threads, "-c", &context, "-npp", &depth, "-ntg", &decode, "-npl", &list]);
        let printed = output(bench.args(["-fa", attention, "--output-format", "jsonl"]))?;
        let runs = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let rates: Vec<f64> = runs.filter_map(|run| run["speed_tg"].as_f64()).collect();
        anyhow::ensure!(rates.len() == best.len(), "llama-batched-bench printed {printed}");
        best.iter_mut().zip(rates).for_each(|(best, rate)| *best = best.max(rate));
    }
    Ok(best)
}
