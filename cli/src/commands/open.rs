//! `coffer open`: a bundle back into plain files.

use crate::{
    model_input::Identities,
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_seal::bundle::Bundle;
use std::path::PathBuf;

/// Decrypt a sealed model into a directory. Every command reads sealed models directly (--identity), so this is
/// needed only to hand plain files to something else.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bundle to open
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Directory to write; must not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    identities: Identities,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Opens.
pub(crate) fn run(args: Args) -> Result<()> {
    let bundle = Bundle::open(&args.bundle, &args.identities.load_for(&args.bundle)?)?;
    let mut progress = Progress::bytes(args.progress, "opening");
    bundle.extract(&args.output, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    eprintln!("opened {} files into {}", bundle.files().len(), args.output.display());
    Ok(())
}
