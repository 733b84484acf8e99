//! `coffer merge`: several models or adapters into one.

use crate::{commands::making, model_input::Identities, recipients::SealTo, remote::Output, signatures::Demanded};
use anyhow::Result;
use coffer_compress::merge;
use coffer_store::Destination;
use std::path::{Path, PathBuf};

/// Merge models, or a base with adapters, by a mergekit recipe. Paths in the recipe are relative to it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Recipe in mergekit's YAML
    #[arg(value_name = "RECIPE.yml")]
    recipe: PathBuf,
    /// Hugging Face directory to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "DIR")]
    output: Output,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    signed: Demanded,
    #[command(flatten)]
    seal: SealTo,
    #[command(flatten)]
    making: making::Flags,
}

/// Merges.
pub(crate) fn run(args: Args) -> Result<()> {
    let (recipients, threads) = (args.seal.recipients()?, args.making.threads());
    let open = |path: &Path| args.signed.files(path, args.identities.load_for(path)?);
    if args.making.dry_run {
        return args.making.planned(&merge::plan(&args.recipe, &open, threads)?);
    }
    let mut progress = args.making.progress("merging");
    let output = Destination { path: &args.output, recipients: &recipients, work: None };
    let summary = merge::merge(&args.recipe, output, &open, threads, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    args.making.made(&args.output, &summary)
}
