//! `coffer push`: a sealed bundle into an object store.

use crate::progress::Style;
use anyhow::Result;
use std::path::PathBuf;

/// Copy a sealed bundle to s3://BUCKET/NAME, gs:// or az://. Run again after an interruption, it sends only what is missing. What is there
/// becomes a bundle with its last object. Every command that reads a model reads it from there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sealed bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Where to; what is there already is not replaced. Credentials come from the environment (docs/remote.md)
    #[arg(value_name = "URL")]
    url: String,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Pushes.
#[cfg(feature = "remote")]
pub(crate) fn run(args: Args) -> Result<()> {
    use anyhow::Context;
    let mut progress = crate::progress::Progress::bytes(args.progress, "pushing");
    let pushed = coffer_remote::push(&args.bundle, &args.url, &mut |done, total| progress.update(done, total));
    drop(progress);
    match pushed.context("push (run the same command again: it goes on where it stopped)")? {
        coffer_remote::Pushed::Sent(bytes) => eprintln!("pushed to {}: {bytes} bytes sent by this run", args.url),
        coffer_remote::Pushed::Already => eprintln!("{}: is there already, the same", args.url),
    }
    Ok(())
}

/// Says what is missing.
#[cfg(not(feature = "remote"))]
pub(crate) fn run(args: Args) -> Result<()> {
    let Args { bundle: _, url: _, progress: _ } = args;
    anyhow::bail!("push: {}", crate::remote::ABSENT)
}
