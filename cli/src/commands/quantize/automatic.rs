//! Mixtures by measurement, where no type is named.

use crate::{commands::outcome::HeldOut, work::Work};
use anyhow::{Context, Result};
use coffer_assess::fidelity::{self, Loaded, Windows};
use coffer_compress::quantize::{Costs, Goal, Mixture, QuantizeParams, Rounded};
use coffer_engine::Engine;
use coffer_store::Model;

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
    let source = work.load("loading the source", &model.config, &*model.weights)?;
    let window = source.context().min(TOKENS);
    let windows = Windows::new(&tokens[..tokens.len().min(TOKENS)], window, 0, source.context())
        .with_context(|| format!("{}: types cannot be chosen by it", text.name))?;
    let mut divergence = |rounded: &Rounded| -> Result<f64> {
        let engine = Engine::load(&model.config, rounded, work.options()?, &mut |_, _| {})?;
        let (source, engine) = (Loaded { name: "the source", engine: &source }, Loaded { name: "a mixture", engine: &engine });
        let (_, beside) = fidelity::compare(source, &[engine], &windows, &mut |_, _| {})?;
        Ok(beside.iter().filter_map(|f| f.divergence.as_ref()).map(|d| d.kl_mean.value).sum())
    };
    let mut progress = work.steps("measuring what each matrix loses");
    let costs = Costs::measure(model, params, &mut divergence, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    costs.meet(model, params, goal, &mut divergence)
}

fn size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|e| format!("{e}; a size is a number with a unit, 700MB or 1.5GiB"))
}
