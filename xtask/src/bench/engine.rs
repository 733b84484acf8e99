//! Decode and prefill beside llama-bench, two threads each, same files.

use super::{Row, alternate, synthetic};
use crate::peers::{Peers, output};
use anyhow::{Context, Result};
use coffer_engine::{Engine, LoadOptions, Span, Want};
use coffer_kernels::Isa;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

const THREADS: usize = 2;
const PREFILL: usize = 512;
const DECODE: usize = 64;

/// SmolLM2 as it is published, and the synthetic 1.1 B shape in three formats.
pub(crate) fn rows(peers: &Peers, repeat: usize) -> Result<Vec<Row>> {
    let mut models = vec![("SmolLM2-135M Q4_1".to_owned(), peers.smollm2()?)];
    if let Some(synthetic) = synthetic(peers)? {
        for kind in ["Q4_0", "Q8_0", "Q4_K_M"] {
            models.push((format!("1.1 B {kind}"), quantized(peers, &synthetic, kind)?));
        }
    }
    let mut rows = Vec::new();
    for (name, gguf) in &models {
        let engine = load(gguf)?;
        let (ours, peer) = alternate(repeat, || ours_decode(&engine), || llama_bench(peers, gguf, 0, DECODE))?;
        rows.push(Row::rate(format!("{name}, decode {DECODE}"), ours, peer, "tok/s"));
        let (ours, peer) = alternate(repeat, || ours_prefill(&engine), || llama_bench(peers, gguf, PREFILL, 0))?;
        rows.push(Row::rate(format!("{name}, prefill {PREFILL}"), ours, peer, "tok/s"));
    }
    Ok(rows)
}

pub(super) fn quantized(peers: &Peers, model: &Path, kind: &str) -> Result<PathBuf> {
    let out = peers.cache().join(format!("synthetic-1b-{kind}.gguf"));
    if !out.exists() {
        output(peers.coffer("quantize")?.arg(model).args(["--type", kind, "-o"]).arg(&out))?;
    }
    Ok(out)
}

fn load(gguf: &Path) -> Result<Engine> {
    let model = coffer_store::open(gguf, &[])?;
    let options = LoadOptions {
        isa: Isa::detect()?,
        threads: THREADS,
        context: Some(PREFILL + DECODE),
        kv_format: coffer_kernels::KvFormat::default(),
    };
    Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |_, _| {})?)
}

/// Tokens a second of decoding one sequence from an empty cache, as llama-bench does it.
fn ours_decode(engine: &Engine) -> Result<f64> {
    let mut cache = engine.cache(DECODE + 1)?;
    let mut step = |token: u32| engine.forward(&mut [Span { cache: &mut cache, tokens: &[token], want: Want::Last }]);
    step(1)?;
    let start = Instant::now();
    for i in 0..DECODE as u32 {
        step(2 + i)?;
    }
    Ok(DECODE as f64 / start.elapsed().as_secs_f64())
}

/// Tokens a second of a prompt of 512 tokens.
fn ours_prefill(engine: &Engine) -> Result<f64> {
    let tokens: Vec<u32> = (0..PREFILL as u32).map(|i| 3 + i * 7 % 4000).collect();
    let mut cache = engine.cache(PREFILL)?;
    let start = Instant::now();
    engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens, want: Want::Last }])?;
    Ok(PREFILL as f64 / start.elapsed().as_secs_f64())
}

fn llama_bench(peers: &Peers, gguf: &Path, prefill: usize, decode: usize) -> Result<f64> {
    let mut bench = Command::new(peers.llama("llama-bench")?);
    bench.arg("-m").arg(gguf).args([
        "-t",
        &THREADS.to_string(),
        "-p",
        &prefill.to_string(),
        "-n",
        &decode.to_string(),
        "-r",
        "1",
        "-o",
        "json",
    ]);
    let printed: serde_json::Value = serde_json::from_str(&output(&mut bench)?)?;
    printed[0]["avg_ts"].as_f64().context("llama-bench prints avg_ts")
}
