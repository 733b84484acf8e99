//! `coffer seal`: a model (or any file or directory) into a bundle for its recipients.

use crate::progress::{Progress, Style};
use anyhow::{Context, Result};
use coffer_seal::Recipient;
use std::path::PathBuf;

/// Encrypt a model, or any file or directory, for its recipients. Outside the bundle one sees no name and no exact
/// size. The original is left where it is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File or directory to seal
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Bundle to write; must not exist
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
    /// Who may open it: age1…, ssh-ed25519 … or ssh-rsa …; may be repeated
    #[arg(short, long, value_name = "R")]
    recipient: Vec<String>,
    /// File with one recipient a line; may be repeated
    #[arg(short = 'R', long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Seals.
pub(crate) fn run(args: Args) -> Result<()> {
    let recipients = args.recipients()?;
    if recipients.is_empty() {
        return Err(
            crate::exit::Usage("seal: nobody could open this; name a --recipient (coffer keygen makes one)".into()).into()
        );
    }
    let mut progress = Progress::bytes(args.progress, "sealing");
    coffer_seal::bundle::seal_path(&args.path, &args.output, &recipients, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    eprintln!(
        "sealed {} for {} recipient{}",
        args.output.display(),
        recipients.len(),
        if recipients.len() == 1 { "" } else { "s" }
    );
    Ok(())
}

impl Args {
    fn recipients(&self) -> Result<Vec<Recipient>> {
        let mut texts = self.recipient.clone();
        for path in &self.recipients_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            texts.extend(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned));
        }
        texts.iter().map(|t| Ok(Recipient::parse(t)?)).collect()
    }
}
