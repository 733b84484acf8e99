//! `coffer open`: a bundle back into plain files.

use crate::{
    model_input::Identities,
    progress::{Progress, Style},
    remote::Output,
    signatures::{Checked, DemandedOfOne, look},
};
use anyhow::{Context, Result, ensure};
use coffer_seal::bundle::Bundle;
use std::path::{Path, PathBuf};

/// Decrypt a sealed model into a directory. Every command reads sealed models directly (--identity), so this is
/// needed only to hand plain files to something else.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bundle to open
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Directory to write; must not exist
    #[arg(short, long, value_name = "DIR")]
    output: Output,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    signed: DemandedOfOne,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Opens.
pub(crate) fn run(args: Args) -> Result<()> {
    let checked = args.signed.check(&args.bundle)?;
    let bundle = Bundle::open(&args.bundle, args.identities.load_for(&args.bundle)?)?;
    match checked {
        None => extract(&bundle, &args.output, args.progress)?,
        Some(checked) => extract_signed(&bundle, &args, &checked)?,
    }
    eprintln!("opened {} files into {}", bundle.files().len(), args.output.display());
    Ok(())
}

fn extract(bundle: &Bundle, target: &Path, style: Style) -> Result<()> {
    let mut progress = Progress::bytes(style, "opening");
    Ok(bundle.extract(target, &mut |done, total| progress.update(done, total))?)
}

/// What was written is verified before it gets its name.
fn extract_signed(bundle: &Bundle, args: &Args, checked: &Checked) -> Result<()> {
    ensure!(!args.output.exists(), "{}: exists already; remove it or choose another name", args.output.display());
    let parent = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder =
        tempfile::Builder::new().prefix(".unverified-").tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let written = folder.path().join("model");
    extract(bundle, &written, args.progress)?;
    checked.files(&written, &look(&[], &checked.ignored), args.progress)?;
    std::fs::rename(&written, &*args.output).with_context(|| args.output.display().to_string())
}
