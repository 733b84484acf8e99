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

/// Positions before a decoded token, as far as SmolLM2's context goes.
const DEPTHS: [usize; 3] = [1024, 4096, 8192 - DECODE - 1];

/// SmolLM2 as it is published, also deep into its context, and the synthetic 1.1 B shape in four formats.
pub(crate) fn rows(peers: &Peers, repeat: usize, row: &mut dyn FnMut(Row)) -> Result<()> {
    let mut models = vec![("SmolLM2-135M Q4_1".to_owned(), peers.smollm2()?)];
    if let Some(synthetic) = synthetic(peers)? {
        for kind in ["Q4_0", "Q8_0", "Q4_K_M"] {
            models.push((format!("1.1 B {kind}"), quantized(peers, &synthetic, kind)?));
        }
    }
    for (name, gguf) in &models {
        let engine = load(gguf)?;
        let (ours, peer) = alternate(repeat, || ours_decode(&engine, 0), || llama_bench(peers, gguf, 0, DECODE, 0))?;
        row(Row::rate(format!("{name}, decode {DECODE}"), ours, peer, "tok/s").aim(1.6));
        let (ours, peer) = alternate(repeat, || ours_prefill(&engine), || llama_bench(peers, gguf, PREFILL, 0, 0))?;
        row(Row::rate(format!("{name}, prefill {PREFILL}"), ours, peer, "tok/s").aim(2.2));
    }
    let (name, gguf) = &models[0];
    let engine = load(gguf)?;
    for depth in DEPTHS {
        let (ours, peer) = alternate(repeat, || ours_decode(&engine, depth), || llama_bench(peers, gguf, 0, DECODE, depth))?;
        row(Row::rate(format!("{name}, decode {DECODE} after {depth}"), ours, peer, "tok/s"));
    }
    if let Some(synthetic) = synthetic(peers)? {
        let gguf = quantized(peers, &synthetic, "BF16")?;
        let engine = load(&gguf)?;
        let (ours, peer) = alternate(repeat, || ours_prefill(&engine), || llama_bench(peers, &gguf, PREFILL, 0, 0))?;
        row(Row::rate(format!("1.1 B BF16, prefill {PREFILL}"), ours, peer, "tok/s").aim(1.0));
    }
    Ok(())
}

/// The GGUF file of a type, made once into the cache.
pub(super) fn quantized(peers: &Peers, model: &Path, kind: &str) -> Result<PathBuf> {
    let out = peers.cache().join(format!("synthetic-1b-{kind}.gguf"));
    if !out.exists() {
        // BF16 is what the shape is in already.
        let mut command = peers.coffer(if kind == "BF16" { "convert" } else { "quantize" })?;
        if kind != "BF16" {
            command.args(["--type", kind]);
        }
        output(command.arg(model).arg("-o").arg(&out))?;
    }
    Ok(out)
}

fn load(gguf: &Path) -> Result<Engine> {
    let model = coffer_store::open(gguf, &[])?;
    let options =
        LoadOptions { isa: Isa::detect()?, threads: THREADS, context: None, kv_format: coffer_kernels::KvFormat::default() };
    Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |_, _| {})?)
}

/// Tokens a second of decoding one sequence after `depth` positions, as llama-bench does it.
fn ours_decode(engine: &Engine, depth: usize) -> Result<f64> {
    let mut cache = engine.cache(depth + DECODE + 1)?;
    if depth > 0 {
        engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens(depth), want: Want::Nothing }])?;
    }
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
    let tokens = tokens(PREFILL);
    let mut cache = engine.cache(PREFILL)?;
    let start = Instant::now();
    engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens, want: Want::Last }])?;
    Ok(PREFILL as f64 / start.elapsed().as_secs_f64())
}

/// Any tokens.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + i * 7 % 4000).collect()
}

/// The peer's tokens a second, with or without flash attention, whichever is faster.
fn llama_bench(peers: &Peers, gguf: &Path, prefill: usize, decode: usize, depth: usize) -> Result<f64> {
    let mut bench = Command::new(peers.llama("llama-bench")?);
    bench.arg("-m").arg(gguf).args([
        "-t",
        &THREADS.to_string(),
        "-p",
        &prefill.to_string(),
        "-n",
        &decode.to_string(),
        "-fa",
        "0,1",
        "-d",
        &depth.to_string(),
        "-r",
        "1",
        "-o",
        "json",
    ]);
    let printed: serde_json::Value = serde_json::from_str(&output(&mut bench)?)?;
    let rates = printed.as_array().context("llama-bench prints a list")?.iter().map(|run| run["avg_ts"].as_f64());
    rates.collect::<Option<Vec<_>>>().and_then(|r| r.into_iter().reduce(f64::max)).context("llama-bench prints avg_ts")
}
