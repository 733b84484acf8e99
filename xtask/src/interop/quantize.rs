//! Quantizing beside llama-quantize: the same types for the same tensors, and importance matrices that both can read.

use super::Outcome;
use crate::{
    interop::numbers::{python, scribe_gguf},
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use coffer_checkpoint::{DType, FileAt, GgufFile, TensorSource};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// All that llama-quantize has under the same name.
const SCHEMES: [&str; 17] = [
    "Q8_0", "Q6_K", "Q5_1", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_1", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_L",
    "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S",
];
/// Largest relative difference of a mean square from llama-imatrix's, which keeps keys and values in f16 too but rounds activations
/// otherwise.
const IMATRIX_TOLERANCE: f64 = 0.03;

/// Those in which rows that are no multiples of 256 fall back.
const FALLING_BACK: [&str; 6] = ["Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K"];

/// scribe-8m in every scheme, with an importance matrix and without; SmolLM2, whose rows are no multiples of 256.
pub(crate) fn mixtures(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (bf16, imatrix) = (folder.join("scribe.gguf"), folder.join("imatrix.gguf"));
    scribe_gguf(peers, &bf16)?;
    importance(peers, &bf16, &imatrix)?;
    let (mut files, mut tensors) = (0, 0);
    let mut compare = |model: &Path, scheme: &str, imatrix: Option<&Path>| -> Result<()> {
        let [ours, theirs] = ["ours.gguf", "theirs.gguf"].map(|name| folder.join(name));
        let mut coffer = peers.coffer("quantize")?;
        coffer.arg(model).args(["--type", scheme, "--requantize", "--no-eval", "-o"]).arg(&ours);
        let mut llama = Command::new(peers.llama("llama-quantize")?);
        llama.arg("--allow-requantize");
        if let Some(imatrix) = imatrix {
            coffer.arg("--imatrix").arg(imatrix);
            llama.arg("--imatrix").arg(imatrix);
        }
        run(&mut coffer)?;
        run(llama.arg(model).arg(&theirs).arg(scheme))?;
        let (a, b) = (types(&ours)?, types(&theirs)?);
        let different: Vec<_> = b.iter().filter(|(name, dtype)| a.get(*name) != Some(dtype)).collect();
        ensure!(a.len() == b.len() && different.is_empty(), "{scheme}: llama-quantize has {different:?}");
        files += 1;
        tensors += a.len();
        [ours, theirs].iter().try_for_each(std::fs::remove_file)?;
        Ok(())
    };
    for scheme in SCHEMES {
        compare(&bf16, scheme, Some(&imatrix))?;
        // Of two bits llama-quantize makes nothing without knowing what counts.
        if scheme != "Q2_K_S" {
            compare(&bf16, scheme, None)?;
        }
    }
    let smollm2 = peers.smollm2()?;
    FALLING_BACK.iter().try_for_each(|scheme| compare(&smollm2, scheme, None))?;
    Ok(Outcome::Passed(format!("{tensors} tensors in {files} files have llama-quantize's types")))
}

fn types(gguf: &Path) -> Result<BTreeMap<String, DType>> {
    let file = GgufFile::open(&gguf.display().to_string(), Arc::new(FileAt::open(gguf)?))?;
    Ok(file.index().iter().map(|(_, t)| (t.name.clone(), t.dtype)).collect())
}

/// Ours beside llama-imatrix's, over the same windows.
pub(crate) fn imatrix(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (bf16, ours, theirs) = (folder.join("scribe.gguf"), folder.join("ours.gguf"), folder.join("theirs.gguf"));
    scribe_gguf(peers, &bf16)?;
    importance(peers, &bf16, &ours)?;
    llama_imatrix(peers, &bf16, &text(peers), &theirs)?;
    let worst: f64 = python(peers, "imatrix_difference.py", &[&ours, &theirs])?.parse()?;
    ensure!(worst < IMATRIX_TOLERANCE, "a mean square differs by {worst}");
    // llama-quantize has read ours above; now theirs is read.
    let out = folder.join("out.gguf");
    run(peers.coffer("quantize")?.arg(&bf16).args(["--type", "Q4_K_M", "-o"]).arg(&out).arg("--imatrix").arg(&theirs))?;
    Ok(Outcome::Passed(format!("largest difference of a mean square {:.2} %", worst * 100.0)))
}

/// For vLLM: compressed-tensors decompresses what we wrote to the same numbers and transformers runs it; we read what llmcompressor wrote.
pub(crate) fn compressed(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let scribe = peers.root().join("assets/models/scribe-8m");
    let mut weights = 0;
    for (scheme, allowed) in COMPRESSED {
        let [ours, gguf, plain] = ["", ".gguf", ".plain"].map(|end| folder.join(format!("{scheme}{end}")));
        run(peers.coffer("quantize")?.arg(&scribe).args(["--type", scheme, "--no-eval", "-o"]).arg(&ours))?;
        run(peers.coffer("convert")?.arg(&ours).args(["--dtype", "f32", "-o"]).arg(&gguf))?;
        run(peers.coffer("convert")?.arg(&gguf).arg("-o").arg(&plain))?;
        let mut python = Command::new(peers.compressing_python()?);
        let found = output(python.arg(peers.script("decompress.py")).args([&ours, &plain]))?;
        let (same, divergence) = found.trim().split_once(' ').context("two numbers")?;
        let (same, divergence): (usize, f64) = (same.parse()?, divergence.parse()?);
        ensure!(same == 56 && divergence < allowed, "{scheme}: {same} weights are the same, divergence {divergence}");
        weights += same;
    }
    let theirs = folder.join("llmcompressor");
    llmcompressor(peers, &scribe, "rtn", &text(peers), 0, &theirs)?;
    let mut eval = peers.coffer("eval")?;
    eval.arg(&theirs).arg("--against").arg(&scribe).arg("--text").arg(text(peers)).args(["--max-tokens", "2000", "--json"]);
    let figures: serde_json::Value = serde_json::from_str(&output(&mut eval)?)?;
    let divergence = figures["kl_mean"].as_f64().context("eval prints a divergence")?;
    ensure!((0.001..0.1).contains(&divergence), "read back, llmcompressor's W4A16 diverges by {divergence}");
    Ok(Outcome::Passed(format!("{weights} weights the same, and llmcompressor's directory is read")))
}
/// Types, and the divergence that transformers may have from f32: it runs in bf16, and with eight bits rounds activations too.
const COMPRESSED: [(&str, f64); 6] =
    [("W4A16", 0.002), ("W4A16_G32", 0.002), ("W4A16_ASYM", 0.002), ("W4A16_ASYM_G32", 0.002), ("W8A8", 0.01), ("FP8", 0.03)];

/// What llmcompressor makes of a model in W4A16: `rtn`, or `gptq` from so many tokens of a text.
pub(crate) fn llmcompressor(peers: &Peers, model: &Path, method: &str, text: &Path, tokens: usize, out: &Path) -> Result<()> {
    let mut python = Command::new(peers.compressing_python()?);
    python.arg(peers.script("compress.py")).arg(model).arg(method).arg(text).arg(tokens.to_string()).arg(out);
    output(&mut python).map(drop)
}

/// What llama-imatrix makes of a text, in windows of 512 tokens.
pub(crate) fn llama_imatrix(peers: &Peers, model: &Path, text: &Path, out: &Path) -> Result<()> {
    let mut llama = Command::new(peers.llama("llama-imatrix")?);
    llama.arg("-m").arg(model).arg("-f").arg(text).args(["-c", "512", "-t", "2", "--output-format", "gguf", "-o"]);
    run(llama.arg(out))
}

fn importance(peers: &Peers, model: &Path, out: &Path) -> Result<()> {
    run(peers.coffer("imatrix")?.arg(model).arg("--text").arg(text(peers)).arg("-o").arg(out))
}

fn text(peers: &Peers) -> PathBuf {
    peers.root().join("assets/text/holdout.txt")
}
