//! `coffer merge`: several models or adapters into one.

use crate::{
    commands::making,
    model_input::{Identities, threads},
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_compress::merge;
use std::{num::NonZeroUsize, path::PathBuf};

/// Merge models, or a base with adapters, by a mergekit recipe. Paths in the recipe are relative to it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Recipe in mergekit's YAML
    #[arg(value_name = "RECIPE.yml")]
    recipe: PathBuf,
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

/// Merges.
pub(crate) fn run(args: Args) -> Result<()> {
    let (identities, threads) = (args.identities.load()?, threads(args.threads));
    if args.making.dry_run {
        return args.making.planned(&merge::plan(&args.recipe, &identities, threads)?);
    }
    let mut progress = Progress::bytes(args.progress, "merging");
    let summary =
        merge::merge(&args.recipe, &args.output, &identities, threads, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    args.making.made(&args.output, &summary)
}
