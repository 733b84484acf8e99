//! `coffer eval`: how well a model predicts a text, how far it is from a reference, how fast it runs.

mod endpoint;

use crate::{
    exit::Usage,
    model_input::{Compute, ModelArgs},
    output,
    progress::{Progress, Style},
};
use anyhow::{Result, ensure};
use coffer_assess::{
    fidelity::{self, Fidelity, Loaded, Windows},
    resources::{self, Resources, SpeedOptions},
};
use coffer_compress::adapter::{Adapted, Adapter};
use coffer_store::{FileSet, Model};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Measure a model: perplexity on a text, divergence from a reference (--against), speed and memory (--speed); or find out whether a
/// server runs it (--endpoint).
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    endpoint: endpoint::EndpointArgs,
    /// Text to predict, or to ask an endpoint about; plain or sealed
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Reference to measure the divergence from
    #[arg(long, value_name = "REF")]
    against: Option<PathBuf>,
    /// LoRA adapter (PEFT directory) to apply to the model
    #[arg(long, value_name = "A")]
    adapter: Option<PathBuf>,
    /// Tokens of the text to use at most
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    max_tokens: usize,
    /// Tokens of a window; windows do not overlap [default: 512, or the model's context if that is less]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens at the start of each window that only give context (llama-perplexity: half the window)
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Measure load time, tokens a second and peak memory of this process
    #[arg(long, conflicts_with_all = ["text", "against"])]
    speed: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Figures of a model on a text; those of divergence only beside a reference.
#[derive(serde::Serialize)]
pub(super) struct Figures {
    perplexity: f64,
    perplexity_standard_error: Option<f64>,
    tokens_scored: u64,
    #[serde(flatten)]
    divergence: Option<DivergenceFigures>,
}

#[derive(serde::Serialize)]
struct DivergenceFigures {
    perplexity_ratio: f64,
    kl_mean: f64,
    kl_mean_standard_error: Option<f64>,
    kl_p99: f64,
    same_top: f64,
}

/// Measures and prints.
pub(crate) fn run(args: Args) -> Result<()> {
    let model = args.open()?;
    if let Some(url) = args.endpoint.url() {
        return endpoint::run(&args, &model, url);
    }
    if args.speed {
        let resources =
            resources::measure(&args.model.path.display().to_string(), &model, args.compute.options()?, SpeedOptions::default())?;
        return if args.json { output::json(&resources) } else { print_resources(&resources) };
    }
    let fidelity = args.fidelity(&model)?;
    let figures = Figures::from(&fidelity);
    if args.json {
        return output::json(&figures);
    }
    figures.print();
    Ok(())
}

impl Args {
    /// The model, with the adapter applied.
    fn open(&self) -> Result<Model> {
        let mut model = self.model.open()?;
        if let Some(adapter) = &self.adapter {
            let adapter = Adapter::open(adapter, &self.beside(adapter)?)?;
            model.weights = Arc::new(Adapted::new(model.weights, adapter)?);
        }
        Ok(model)
    }

    /// Files of what is used beside the model, under the same demands.
    fn beside(&self, path: &Path) -> Result<FileSet> {
        self.model.signed.demanded.files(path, self.model.identities.load_for(path)?)
    }

    fn fidelity(&self, model: &Model) -> Result<Fidelity> {
        let text = self.text.as_ref().ok_or_else(|| Usage("eval needs a --text, an --endpoint, or --speed".to_owned()))?;
        let tokenizer = model.tokenizer.as_ref().ok_or_else(|| Usage(format!("{}: no tokenizer", self.model.path.display())))?;
        let text = self.model.identities.read_text(text)?;
        let mut tokens = tokenizer.encode(&text, true)?;
        tokens.truncate(self.max_tokens);
        let engine = self.compute.load(model, self.progress)?;
        let window = self.window.unwrap_or_else(|| engine.context().min(512));
        let windows = Windows::new(&tokens, window, self.skip, engine.context())?;
        let name = self.model.path.display().to_string();
        let loaded = Loaded { name: &name, engine: &engine };
        let mut progress = Progress::steps(self.progress, "measuring");
        let mut step = |done, total| progress.update(done, total);
        let Some(against) = &self.against else { return Ok(fidelity::evaluate(loaded, &windows, &mut step)?) };
        let reference = coffer_store::open_files(against, self.beside(against)?)?;
        let same = reference.tokenizer.as_ref().map(|t| t.encode(&text, true)).transpose()?;
        ensure!(
            same.is_none_or(|ids| ids.iter().take(tokens.len()).eq(&tokens)),
            "{} and {} tokenize the text differently",
            name,
            against.display()
        );
        let reference_engine = self.compute.load(&reference, self.progress)?;
        let reference_name = against.display().to_string();
        let base = Loaded { name: &reference_name, engine: &reference_engine };
        let (_, mut beside) = fidelity::compare(base, &[loaded], &windows, &mut step)?;
        Ok(beside.remove(0))
    }
}

impl From<&Fidelity> for Figures {
    fn from(f: &Fidelity) -> Self {
        let divergence = f.divergence.as_ref().map(|d| DivergenceFigures {
            perplexity_ratio: d.perplexity_ratio.value,
            kl_mean: d.kl_mean.value,
            kl_mean_standard_error: d.kl_mean.standard_error,
            kl_p99: d.kl_p99,
            same_top: d.same_top.value,
        });
        Self {
            perplexity: f.perplexity.value,
            perplexity_standard_error: f.perplexity.standard_error,
            tokens_scored: f.scored,
            divergence,
        }
    }
}

impl Figures {
    pub(super) fn print(&self) {
        let error = |e: Option<f64>| e.map(|e| format!(" ± {e:.4}")).unwrap_or_default();
        outln!(
            "perplexity     {:.4}{} over {} tokens",
            self.perplexity,
            error(self.perplexity_standard_error),
            self.tokens_scored
        );
        if let Some(d) = &self.divergence {
            outln!("                {:.4} of the reference's", d.perplexity_ratio);
            outln!(
                "KL divergence  {:.5}{} nats in the mean, {:.4} at the 99th percentile",
                d.kl_mean,
                error(d.kl_mean_standard_error),
                d.kl_p99
            );
            outln!("same top token {:.2} %", d.same_top * 100.0);
        }
    }
}

fn print_resources(r: &Resources) -> Result<()> {
    outln!("load           {:.2} s", r.load_seconds);
    outln!("prefill        {:.1} tokens a second ({} tokens)", r.prefill_tokens_per_second, r.prefill_tokens);
    outln!("decode         {:.1} tokens a second ({} tokens)", r.decode_tokens_per_second, r.decode_tokens);
    outln!("peak memory    {}", r.peak_memory.map_or_else(|| "unknown".to_owned(), output::bytes));
    outln!("on             {}, {} threads", r.isa, r.threads);
    Ok(())
}
