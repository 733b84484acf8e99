//! `coffer prune`: weights set to zero.

use crate::{
    commands::making,
    model_input::{Identities, threads},
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_compress::prune::{self, PruneParams};
use std::{num::NonZeroUsize, path::PathBuf};

/// Set a share of every linear layer's weights to zero. Shapes and types stay as they are.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face directory, GGUF file or sealed bundle
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Which weights go: `magnitude`, the smallest
    #[arg(long, value_name = "M", default_value = "magnitude")]
    method: String,
    /// Share of the weights that become zero, 0 to 1
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    sparsity: f64,
    /// Hugging Face directory to write; must not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    identities: Identities,
    /// Threads; the result does not depend on them [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    making: making::Flags,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Prunes.
pub(crate) fn run(args: Args) -> Result<()> {
    let params = PruneParams { method: args.method.clone(), sparsity: args.sparsity, threads: threads(args.threads) };
    let model = args.identities.open(&args.model)?;
    if args.making.dry_run {
        return args.making.planned(&prune::plan(&model, &params)?);
    }
    let mut progress = Progress::bytes(args.progress, "pruning");
    let summary = prune::prune(&model, &args.output, &params, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    args.making.made(&args.output, &summary)
}
