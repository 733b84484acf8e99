//! Mixtures by measurement, where no type is named.

use crate::{commands::outcome::HeldOut, work::Work};
use anyhow::{Context, Result};
use coffer_assess::fidelity::{self, Fidelity, OnTheWay, Variation, Windows};
use coffer_compress::quantize::{Costs, Goal, Mixture, QuantizeParams, Variant};
use coffer_store::Model;
use std::sync::Arc;

/// Flags that stand in the place of a type.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Automatic {
    /// Instead of --type: measure what each matrix loses, and choose types for a GGUF file of at most this size (700MB, 1.5GiB)
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["scheme", "target_bpw"], value_parser = size)]
    target_size: Option<u64>,
    /// Instead of --type: the same, for at most so many bits per weight
    #[arg(long, value_name = "BITS", conflicts_with = "scheme")]
    target_bpw: Option<f64>,
}

/// Tokens on which each matrix is measured.
const TOKENS: usize = 512;
/// Share of a divergence that is aimed at: what it is measured on later is another text.
const MARGIN: f64 = 0.9;

impl Automatic {
    /// The goal: a size, else the divergence `max_kl`.
    pub(super) fn goal(&self, max_kl: Option<f64>) -> Option<Goal> {
        let size = self.target_size.map(Goal::Bytes).or(self.target_bpw.map(Goal::BitsPerWeight));
        size.or(max_kl.map(|kl| Goal::Divergence(kl * MARGIN)))
    }
}

/// Chooses the types of all matrices of `model` that `params` do not fix, measured on `text`.
pub(super) fn mixture(model: &Model, params: &QuantizeParams, goal: Goal, text: &HeldOut, work: Work) -> Result<Mixture> {
    let tokens = model.tokenizer.as_ref().map_or_else(|| Ok(Vec::new()), |t| t.encode(&text.text, true))?;
    let context = model.config.context;
    let windows = Windows::new(&tokens[..tokens.len().min(TOKENS)], context.min(TOKENS), 0, context)
        .with_context(|| format!("{}: types cannot be chosen by it", text.name))?;
    let source = || OnTheWay { name: "the source", config: &model.config, weights: Arc::clone(&model.weights) };
    let mut measure = |variants: Vec<Variant>| -> Result<Vec<f64>> {
        let mut divergences = vec![f64::INFINITY; variants.len()];
        let (mut places, mut variations) = (Vec::new(), Vec::new());
        for (at, Variant { layer, weights }) in variants.into_iter().enumerate() {
            if let Some(layer) = layer {
                places.push(at);
                variations.push(Variation { layer, weights });
                continue;
            }
            let mut progress = work.steps("measuring what is lost");
            let variant = OnTheWay { name: "a mixture", config: &model.config, weights };
            let (_, found) = fidelity::compare_layerwise(source(), variant, work.options()?, &windows, &mut |done, total| {
                progress.update(done, total);
            })?;
            divergences[at] = divergence(&found);
        }
        if !variations.is_empty() {
            let mut progress = work.steps("measuring what each matrix loses");
            let update = &mut |done, total| progress.update(done, total);
            let found = fidelity::compare_variations(source(), &variations, work.options()?, MEMORY, &windows, update)?;
            places.into_iter().zip(&found).for_each(|(at, found)| divergences[at] = divergence(found));
        }
        Ok(divergences)
    };
    let costs = Costs::measure(model, params, &mut measure)?;
    costs.meet(model, params, goal, &mut measure)
}

/// Bytes for texts on their way through a model with one matrix rounded.
const MEMORY: usize = 1 << 28;

fn divergence(fidelity: &Fidelity) -> f64 {
    fidelity.divergence.as_ref().map_or(0.0, |d| d.kl_mean.value)
}

fn size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|e| format!("{e}; a size is a number with a unit, 700MB or 1.5GiB"))
}
