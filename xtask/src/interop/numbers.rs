//! The engine's numbers beside those of transformers and llama.cpp.

use super::Outcome;
use crate::peers::{Peers, output, run};
use anyhow::{Context, Result, ensure};
use coffer_engine::{Engine, LoadOptions, Span, Want};
use coffer_kernels::{Cpu, Isa};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Largest difference of a logit from transformers in float32.
const LOGIT_TOLERANCE: f32 = 2e-3;
/// Largest relative difference of perplexity from llama.cpp's.
const PERPLEXITY_TOLERANCE: f64 = 0.003;
/// How often llama-perplexity is run until it prints its figure.
const TRIES: usize = 10;
const CHUNK: usize = 512;

/// scribe-8m on 512 held-out tokens: the largest logit difference from transformers in float32.
pub(crate) fn transformers_logits(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let path = scribe(peers);
    let model = coffer_store::open(&path, &[])?;
    let text = std::fs::read_to_string(peers.root().join("assets/text/holdout.txt"))?;
    let mut ids = model.tokenizer.as_ref().context("scribe-8m has a tokenizer")?.encode(&text, false)?;
    ids.truncate(CHUNK);
    let ours = logits(&load(&model)?, &ids)?;
    let worst = largest_difference(&ours, &transformers(peers, folder, &[&path], &ids)?[0])?;
    Ok(Outcome::Passed(format!("{} tokens, largest logit difference {worst:.1e}", ids.len())))
}

/// SmolLM2's GGUF on the held-out text: perplexity beside llama-perplexity's, same tokens, same windows.
pub(crate) fn llama_perplexity(peers: &Peers, _folder: &Path) -> Result<Outcome> {
    let gguf = peers.smollm2()?;
    let text = peers.root().join("assets/text/holdout.txt");
    let (ours, theirs) = perplexities(peers, &gguf, &text, 6)?;
    close("SmolLM2", ours, theirs)
}

/// Our perplexity of a GGUF file beside llama.cpp's.
pub(crate) fn perplexities(peers: &Peers, gguf: &Path, text: &Path, chunks: usize) -> Result<(f64, f64)> {
    let mut llama = Command::new(peers.llama("llama-perplexity")?);
    llama.arg("-m").arg(gguf).arg("-f").arg(text).args(["-t", "2", "-c", &CHUNK.to_string(), "--chunks", &chunks.to_string()]);
    let theirs = (0..TRIES).find_map(|_| estimate(&mut llama).transpose()).context("llama-perplexity printed no estimate")??;

    let model = coffer_store::open(gguf, &[])?;
    let ids = model.tokenizer.as_ref().context("no tokenizer")?.encode(&std::fs::read_to_string(text)?, true)?;
    Ok((second_half_perplexity(&load(&model)?, &ids, chunks)?, theirs))
}

/// What llama-perplexity prints, on stdout or stderr, depending on the version. `None` if it ends well without: its log loses the last
/// lines in one of some sixteen runs, in more where the machine is busy.
fn estimate(llama: &mut Command) -> Result<Option<f64>> {
    let out = llama.output()?;
    let printed = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "llama-perplexity ended with {}:\n{printed}", out.status);
    let figure = printed.split("Final estimate: PPL = ").nth(1).and_then(|s| s.split_whitespace().next());
    Ok(figure.map(str::parse).transpose()?)
}

/// Fails unless two perplexities agree.
pub(crate) fn close(what: &str, ours: f64, theirs: f64) -> Result<Outcome> {
    let off = ours / theirs - 1.0;
    ensure!(off.abs() <= PERPLEXITY_TOLERANCE, "{what}: perplexity {ours:.4}, llama.cpp {theirs:.4}");
    Ok(Outcome::Passed(format!("{what}: perplexity {ours:.4}, llama.cpp {theirs:.4} ({:+.3} %)", off * 100.0)))
}

/// The model that lies in the project.
pub(crate) fn scribe(peers: &Peers) -> PathBuf {
    peers.root().join("assets/models/scribe-8m")
}

/// The same as a GGUF file, written to `out`.
pub(crate) fn scribe_gguf(peers: &Peers, out: &Path) -> Result<()> {
    run(peers.coffer("convert")?.arg(scribe(peers)).args(["--to", "gguf", "-o"]).arg(out))
}

/// Loads a model on two threads.
pub(crate) fn load(model: &coffer_store::Model) -> Result<Engine> {
    let options = LoadOptions {
        isa: Isa::detect()?,
        threads: 2,
        context: Some(CHUNK.min(model.config.context)),
        kv_format: coffer_kernels::KvFormat::F32,
    };
    Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |_, _| {})?)
}

/// Logits of every token of `ids`.
pub(crate) fn logits(engine: &Engine, ids: &[u32]) -> Result<Vec<f32>> {
    let mut cache = engine.cache(ids.len())?;
    Ok(engine.forward(&mut [Span { cache: &mut cache, tokens: ids, want: Want::All }])?)
}

/// Perplexity as llama-perplexity defines it: windows of 512 tokens, only the second half of each is predicted.
fn second_half_perplexity(engine: &Engine, ids: &[u32], chunks: usize) -> Result<f64> {
    let vocab = engine.config().vocab;
    let cpu = Cpu::new(Isa::detect()?, 1);
    let (mut sum, mut count) = (0.0, 0u32);
    for window in ids.chunks_exact(CHUNK).take(chunks) {
        let mut logits = logits(engine, window)?;
        let first = CHUNK / 2;
        cpu.log_softmax(&mut logits[first * vocab..], vocab);
        for at in first..CHUNK - 1 {
            sum -= f64::from(logits[at * vocab + window[at + 1] as usize]);
            count += 1;
        }
    }
    Ok((sum / f64::from(count)).exp())
}

/// Logits of transformers in float32, of each model.
pub(crate) fn transformers(peers: &Peers, folder: &Path, models: &[&Path], ids: &[u32]) -> Result<Vec<Vec<f32>>> {
    let (ids_file, out) = (folder.join("ids"), |i: usize| folder.join(format!("{i}.logits")));
    std::fs::write(&ids_file, ids.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<_>>())?;
    let mut python = Command::new(peers.python()?);
    python.arg(peers.script("logits.py")).arg(&ids_file);
    models.iter().enumerate().for_each(|(i, model)| _ = python.arg(model).arg(out(i)));
    run(&mut python)?;
    let floats = |bytes: Vec<u8>| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (0..models.len()).map(|i| Ok(floats(std::fs::read(out(i))?))).collect()
}

/// The largest difference of a logit from transformers', if none is above the tolerance.
pub(crate) fn largest_difference(ours: &[f32], theirs: &[f32]) -> Result<f32> {
    ensure!(ours.len() == theirs.len(), "{} logits, transformers {}", ours.len(), theirs.len());
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ensure!(worst <= LOGIT_TOLERANCE, "largest logit difference {worst:e}, at most {LOGIT_TOLERANCE:e} is allowed");
    Ok(worst)
}

/// What Python prints.
pub(crate) fn python(peers: &Peers, script: &str, arguments: &[&Path]) -> Result<String> {
    Ok(output(Command::new(peers.python()?).arg(peers.script(script)).args(arguments))?.trim().to_owned())
}
