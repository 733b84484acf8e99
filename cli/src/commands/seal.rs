//! `coffer seal`: a model (or any file or directory) into a bundle for its recipients.

use crate::{
    passphrase,
    progress::{Progress, Style},
    recipients,
    remote::Output,
};
use anyhow::Result;
use coffer_seal::{Recipient, bundle};
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
    output: Output,
    /// Who may open it: age1…, age1pq1… (post-quantum), age1tag1… (on a token), age1NAME1… (a plugin's), ssh-ed25519 … or ssh-rsa …; may be repeated
    #[arg(short, long, value_name = "R")]
    recipient: Vec<String>,
    /// File with one recipient a line, or an RSA public key in PEM; may be repeated
    #[arg(short = 'R', long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// Who must always be able to open it; `rekey` does not take such a recipient away in passing. Policy of a team:
    /// `[seal] recovery = "age1…"` in coffer.toml; may be repeated
    #[arg(long, value_name = "R")]
    recovery: Vec<String>,
    /// Ask for a passphrase that opens it too
    #[arg(long)]
    passphrase: bool,
    /// File or descriptor (/dev/fd/3) whose first line is that passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Index the records of texts (.txt, .text, .md: lines) and JSONL (.jsonl, .ndjson), so that training can read them
    /// at random and shuffled; a line that is no record is an error
    #[arg(long)]
    records: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Seals.
pub(crate) fn run(args: Args) -> Result<()> {
    crate::hygiene::protect();
    let recipients = args.recipients()?;
    if recipients.len() == args.recovery.len() {
        return Err(crate::exit::Usage(
            "seal: nobody could open this in daily use; name a --recipient (coffer keygen makes one)".into(),
        )
        .into());
    }
    let mut progress = Progress::bytes(args.progress, "sealing");
    let seal = if args.records { bundle::seal_data } else { bundle::seal_path };
    seal(&args.path, &args.output, &recipients, &mut |done, total| progress.update(done, total))?;
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
        let mut recipients = recipients::parse(&self.recipient, &self.recipients_file)?;
        recipients.extend(passphrase::new(self.passphrase, self.passphrase_file.as_ref())?.map(Recipient::passphrase));
        for text in &self.recovery {
            recipients.push(Recipient::parse(text)?.recovery(true));
        }
        Ok(recipients)
    }
}
