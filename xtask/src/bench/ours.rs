//! Our engine, measured as the peer's benchmarks measure theirs.

use super::THREADS;
use anyhow::Result;
use coffer_engine::{Engine, KvCache, LoadOptions, Span, Want};
use coffer_kernels::{Isa, KvFormat};
use std::{path::Path, time::Instant};

pub(super) fn load(gguf: &Path, isa: Isa) -> Result<Engine> {
    let model = coffer_store::open(gguf, &[])?;
    let options = LoadOptions { isa, threads: THREADS, context: None, kv_format: KvFormat::default() };
    Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |_, _| {})?)
}

/// Tokens a second of `sequences` together that make `decode` tokens each after `depth` positions.
pub(super) fn decode(engine: &Engine, sequences: usize, decode: usize, depth: usize) -> Result<f64> {
    let mut caches = Vec::new();
    for _ in 0..sequences {
        let mut cache = engine.cache(depth + decode + 1)?;
        if depth > 0 {
            engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens(depth), want: Want::Nothing }])?;
        }
        caches.push(cache);
    }
    step(engine, &mut caches, 1)?;
    let start = Instant::now();
    for i in 0..decode as u32 {
        step(engine, &mut caches, 2 + i)?;
    }
    Ok((sequences * decode) as f64 / start.elapsed().as_secs_f64())
}

fn step(engine: &Engine, caches: &mut [KvCache], token: u32) -> Result<()> {
    let tokens = [token];
    let span = |cache| Span { cache, tokens: &tokens, want: Want::Last };
    engine.forward(&mut caches.iter_mut().map(span).collect::<Vec<_>>())?;
    Ok(())
}

/// Tokens a second of a prompt.
pub(super) fn prefill(engine: &Engine, prompt: usize) -> Result<f64> {
    let tokens = tokens(prompt);
    let mut cache = engine.cache(prompt)?;
    let start = Instant::now();
    engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens, want: Want::Last }])?;
    Ok(prompt as f64 / start.elapsed().as_secs_f64())
}

/// Any tokens.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + i * 7 % 4000).collect()
}
