//! Step 2: variants of the model, each made by a command of its own.

use super::{Demo, say};
use crate::{commands::making::describe, model_input};
use anyhow::{Context, Result};
use coffer_compress::{
    merge,
    prune::{self, PruneParams},
    quantize::{self, Inputs, QuantizeParams, Scheme},
};
use coffer_store::{FileSet, Model};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A variant and how it was made.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) made: String,
    pub(super) path: PathBuf,
}

const SCHEMES: [Scheme; 4] = [Scheme::Q8_0, Scheme::Q6_K, Scheme::Q4_K_M, Scheme::Q4_0];

/// Both adapters at half weight.
const RECIPE: &str = "\
merge_method: linear
models:
  - model: BASE+ADAPTERS/scribe-8m-detective-lora
    parameters:
      weight: 0.5
  - model: BASE+ADAPTERS/scribe-8m-verse-lora
    parameters:
      weight: 0.5
dtype: bfloat16
";

/// Quantizes, prunes and merges.
pub(super) fn run(demo: &Demo, model: &Model) -> Result<Vec<Variant>> {
    say::step(2, "Change", "how can it be made smaller, or made to know more?");
    let threads = model_input::threads(None);
    let mut variants = Vec::new();
    for scheme in SCHEMES {
        let path = demo.work().join(format!("{scheme}.gguf"));
        let summary = quantize::quantize(
            model,
            &path,
            &QuantizeParams { scheme, types: BTreeMap::new(), requantize: false, inputs: Inputs::Unknown, threads },
            &mut |_, _| {},
        )?;
        say::line(&format!("quantize --type {:8} {}", scheme.to_string(), describe(&summary)));
        variants.push(Variant { name: scheme.to_string(), made: format!("quantize --type {scheme}"), path });
    }
    let path = demo.work().join("pruned-50");
    let params = PruneParams { method: "magnitude".to_owned(), sparsity: 0.5, threads };
    let summary = prune::prune(model, &path, &params, &mut |_, _| {})?;
    say::line(&format!("prune --sparsity 0.5     {}", describe(&summary)));
    variants.push(Variant { name: "pruned-50".to_owned(), made: "prune --method magnitude --sparsity 0.5".to_owned(), path });

    let (path, recipe) = (demo.work().join("merged"), demo.work().join("merge.yml"));
    let models = demo.assets.join("models");
    let text = |p: &Path| p.to_str().map(str::to_owned).with_context(|| format!("{}: not UTF-8", p.display()));
    std::fs::write(&recipe, RECIPE.replace("BASE", &text(&demo.model())?).replace("ADAPTERS", &text(&models)?))?;
    let open = |path: &Path| Ok::<_, anyhow::Error>(FileSet::open(path, &[])?);
    let summary = merge::merge(&recipe, &path, &open, threads, &mut |_, _| {})?;
    say::line(&format!("merge of two adapters    {}", describe(&summary)));
    variants.push(Variant {
        name: "merged".to_owned(),
        made: "merge: linear, detective and verse adapters at 0.5 each".to_owned(),
        path,
    });
    Ok(variants)
}
