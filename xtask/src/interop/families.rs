//! A tiny random model of each family, made by transformers, beside transformers and llama.cpp.

use super::Outcome;
use crate::{
    interop::numbers::{largest_difference, logits, perplexities, scribe, transformers},
    peers::{Peers, run},
};
use anyhow::{Context, Result, ensure};
use coffer_checkpoint::DType;
use coffer_engine::{Engine, LoadOptions, Span, Want};
use coffer_kernels::Isa;
use coffer_model::Architecture;
use coffer_store::{Model, Target, convert, open};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Tokens of a text: more than the sliding windows of the models.
const TOKENS: u32 = 200;
/// Of the tokenizer that all of them have.
const VOCABULARY: u32 = 4096;
/// Largest relative difference of perplexity from llama.cpp's.
const PERPLEXITY_TOLERANCE: f64 = 0.003;
/// Names in `tiny.py`.
const FAMILIES: [&str; 11] =
    ["llama", "mistral", "qwen2", "qwen3", "phi3", "phi3-window", "mixtral", "qwen2_moe", "qwen3_moe", "gemma2", "gemma3"];
/// Context to load with.
const CONTEXT: usize = 512;

/// Logits as transformers gives them, whatever the cut and the batch; through GGUF and back to the bit; in GGUF the perplexity of
/// llama.cpp.
pub(crate) fn tiny_models(peers: &Peers, folder: &Path) -> Result<Outcome> {
    run(Command::new(peers.python()?).arg(peers.script("tiny.py")).arg(scribe(peers)).arg(folder).args(FAMILIES))?;
    let ids: Vec<u32> = (0..TOKENS).map(|i| (i * i * 31 + i * 7) % VOCABULARY).collect();
    let tiny = FAMILIES.map(|family| Tiny::new(family, &folder.join(family).join("model"), &ids).context(family));
    let tiny = tiny.into_iter().collect::<Result<Vec<_>>>()?;
    let models: Vec<_> = tiny.iter().flat_map(|tiny| [tiny.path.as_path(), tiny.back.as_path()]).collect();
    let theirs = transformers(peers, folder, &models, &ids)?;
    for (tiny, theirs) in tiny.iter().zip(theirs.chunks_exact(2)) {
        let figure = tiny.beside_peers(peers, theirs).context(tiny.family)?;
        println!("         {}: {figure}", tiny.family);
    }
    Ok(Outcome::Passed(FAMILIES.join(", ")))
}

/// A model, and what became of it.
struct Tiny {
    family: &'static str,
    path: PathBuf,
    model: Model,
    logits: Vec<f32>,
    /// The same model, that was a GGUF file, under a configuration of ours.
    back: PathBuf,
}

impl Tiny {
    fn new(family: &'static str, path: &Path, ids: &[u32]) -> Result<Self> {
        let model = open(path, &[])?;
        let engine = load(&model)?;
        let logits = logits(&engine, ids)?;
        same_however_run(&engine, ids, &logits)?;
        let back = there_and_back(path, &model, ids, &logits)?;
        Ok(Self { family, path: path.to_owned(), model, logits, back })
    }

    fn beside_peers(&self, peers: &Peers, theirs: &[Vec<f32>]) -> Result<String> {
        let largest = self.logits.iter().fold(0f32, |m, x| m.max(x.abs()));
        let differences = theirs.iter().map(|theirs| largest_difference(&self.logits, theirs)).collect::<Result<Vec<_>>>()?;
        let worst = differences.into_iter().fold(0.0, f32::max);
        let perplexity = match (self.model.config.architecture, self.model.config.sliding_window) {
            (Architecture::Mistral | Architecture::Phi3, Some(_)) => "llama.cpp leaves out its window".to_owned(),
            _ => self.perplexity(peers)?,
        };
        Ok(format!("logits to {largest:.1}, largest difference {worst:.1e}; {perplexity}"))
    }

    fn perplexity(&self, peers: &Peers) -> Result<String> {
        let gguf = self.path.with_extension("f32.gguf");
        convert(&self.model, &gguf, Target::Gguf, Some(DType::F32), &mut |_, _| {})?;
        let (ours, theirs) = perplexities(peers, &gguf, &peers.root().join("assets/text/holdout.txt"), 4)?;
        let off = ours / theirs - 1.0;
        ensure!(off.abs() <= PERPLEXITY_TOLERANCE, "perplexity {ours:.4}, llama.cpp {theirs:.4}");
        Ok(format!("perplexity {ours:.2}, llama.cpp {theirs:.2} ({:+.3} %)", off * 100.0))
    }
}

fn load(model: &Model) -> Result<Engine> {
    let options =
        LoadOptions { isa: Isa::detect()?, threads: 2, context: Some(CONTEXT), kv_format: coffer_kernels::KvFormat::F32 };
    Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |_, _| {})?)
}

/// Cuts and batches leave no trace.
fn same_however_run(engine: &Engine, ids: &[u32], whole: &[f32]) -> Result<()> {
    let vocab = engine.config().vocab;
    for cut in [1, 63, 64, 65, 130] {
        let mut cache = engine.cache(ids.len())?;
        let mut parts = engine.forward(&mut [Span { cache: &mut cache, tokens: &ids[..cut], want: Want::All }])?;
        let mut other = engine.cache(ids.len())?;
        let together = engine.forward(&mut [
            Span { cache: &mut other, tokens: &ids[..cut.min(90)], want: Want::Last },
            Span { cache: &mut cache, tokens: &ids[cut..], want: Want::All },
        ])?;
        parts.extend(&together[vocab..]);
        ensure!(same(&parts, whole), "cut at {cut}, in a batch, the logits are others");
    }
    Ok(())
}

/// GGUF and back: equal weights, equal logits. Gives the folder of what came back, with the configuration that is written for a model
/// that has none.
fn there_and_back(path: &Path, model: &Model, ids: &[u32], whole: &[f32]) -> Result<PathBuf> {
    let (gguf, back) = (path.with_extension("gguf"), path.with_extension("back"));
    convert(model, &gguf, Target::Gguf, None, &mut |_, _| {})?;
    let there = open(&gguf, &[])?;
    ensure!(there.config == model.config, "GGUF says {:?}, not {:?}", there.config, model.config);
    ensure!(there.weights_digest()? == model.weights_digest()?, "the weights of the GGUF file are others");
    ensure!(there.unused.is_empty(), "GGUF: left over {:?}", there.unused);
    ensure!(same(&logits(&load(&there)?, ids)?, whole), "the GGUF file gives other logits");
    convert(&there, &back, Target::HuggingFace, None, &mut |_, _| {})?;
    ensure!(open(&back, &[])?.weights_digest()? == model.weights_digest()?, "the weights that came back are others");
    fs::write(back.join("config.json"), model.config.to_hf("bfloat16"))?;
    Ok(back)
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
