//! Files that we write, run by others.

use super::Outcome;
use crate::{
    interop::numbers::{close, perplexities, python, scribe, scribe_gguf},
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

const TYPES: [&str; 12] =
    ["Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "Q4_K_M", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K"];

/// llama.cpp runs what `convert` and `quantize` write, with our perplexity.
pub(crate) fn llama_runs_our_gguf(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let text = peers.root().join("assets/text/holdout.txt");
    let mut figures = Vec::new();
    for gguf in ggufs(peers, folder)? {
        let (ours, theirs) = perplexities(peers, &gguf, &text, 4)?;
        let name = gguf.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Outcome::Passed(figure) = close(&name, ours, theirs)? {
            figures.push(figure);
        }
    }
    Ok(Outcome::Passed(figures.join("; ")))
}

/// gguf-py reads every tensor that we write, and decodes it to the values that we decode.
pub(crate) fn gguf_py_decodes_our_gguf(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let mut tensors = 0;
    for gguf in ggufs(peers, folder)? {
        let back = folder.join("back");
        run(peers.coffer("convert")?.arg(&gguf).args(["--to", "hf", "--dtype", "f32", "-o"]).arg(&back))?;
        let printed = python(peers, "gguf_values.py", &[&gguf, &back])?;
        tensors += printed.parse::<u32>().with_context(|| printed.clone())?;
        std::fs::remove_dir_all(back)?;
    }
    Ok(Outcome::Passed(format!("{tensors} tensors decode to equal values")))
}

/// transformers runs the directories of `prune` and `merge`; its perplexity is ours.
pub(crate) fn transformers_runs_our_directories(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let pruned = folder.join("pruned");
    run(peers.coffer("prune")?.arg(scribe(peers)).args(["--method", "magnitude", "--sparsity", "0.5", "-o"]).arg(&pruned))?;
    let merged = merge(peers, folder)?;
    let text = peers.root().join("assets/text/holdout.txt");
    let mut figures = Vec::new();
    for model in [&pruned, &merged] {
        let json = output(peers.coffer("eval")?.arg(model).arg("--text").arg(&text).args(["--max-tokens", "2048", "--json"]))?;
        let ours =
            serde_json::from_str::<serde_json::Value>(&json)?["perplexity"].as_f64().context("eval prints a perplexity")?;
        let theirs: f64 = python(peers, "perplexity.py", &[model, &text, "2048".as_ref()])?.parse()?;
        ensure!((ours / theirs - 1.0).abs() < 1e-3, "{}: perplexity {ours}, transformers {theirs}", model.display());
        figures.push(format!("perplexity {ours:.4}, transformers {theirs:.4}"));
    }
    Ok(Outcome::Passed(figures.join("; ")))
}

/// A Hugging Face directory through GGUF and back, and SmolLM2's GGUF through a directory: weights, tokenizer and
/// template come back equal.
pub(crate) fn convert_there_and_back(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (gguf, back) = (folder.join("scribe.gguf"), folder.join("scribe"));
    scribe_gguf(peers, &gguf)?;
    run(peers.coffer("convert")?.arg(&gguf).args(["--to", "hf", "-o"]).arg(&back))?;
    let printed = python(peers, "same_model.py", &[&scribe(peers), &back])?;
    Ok(Outcome::Passed(printed))
}

/// Merging both adapters with equal weights gives what PEFT and numpy give, to the rounding of bf16.
pub(crate) fn peft_merges_alike(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let merged = merge(peers, folder)?;
    let models = peers.root().join("assets/models");
    Ok(Outcome::Passed(python(peers, "same_merge.py", &[&models, &merged])?))
}

/// scribe-8m converted and in every quantized type.
fn ggufs(peers: &Peers, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![folder.join("BF16.gguf")];
    scribe_gguf(peers, &all[0])?;
    for kind in TYPES {
        let out = folder.join(format!("{kind}.gguf"));
        run(peers.coffer("quantize")?.arg(scribe(peers)).args(["--type", kind, "-o"]).arg(&out))?;
        all.push(out);
    }
    Ok(all)
}

fn merge(peers: &Peers, folder: &Path) -> Result<PathBuf> {
    let models = peers.root().join("assets/models");
    let base = models.join("scribe-8m");
    let part = |name: &str| {
        format!("  - model: {}+{}\n    parameters:\n      weight: 0.5\n", base.display(), models.join(name).display())
    };
    let recipe = folder.join("recipe.yml");
    let text = format!(
        "merge_method: linear\nmodels:\n{}{}dtype: bfloat16\n",
        part("scribe-8m-detective-lora"),
        part("scribe-8m-verse-lora")
    );
    std::fs::write(&recipe, text)?;
    let merged = folder.join("merged");
    run(peers.coffer("merge")?.arg(&recipe).arg("-o").arg(&merged))?;
    Ok(merged)
}
