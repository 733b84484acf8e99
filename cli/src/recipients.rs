//! Who may open what is sealed.

use anyhow::Result;
use coffer_seal::Recipient;
use std::path::PathBuf;

/// Flags of commands that make a model: sealed while it is made.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SealTo {
    /// Seal the output for this recipient while it is written, so that no plaintext reaches the disk; may be repeated
    #[arg(long, value_name = "R")]
    seal_to: Vec<String>,
    /// File with one such recipient a line, or an RSA public key in PEM; may be repeated
    #[arg(long, value_name = "FILE")]
    seal_to_file: Vec<PathBuf>,
}

impl SealTo {
    /// The recipients; none: the output is plain.
    pub(crate) fn recipients(&self) -> Result<Vec<Recipient>> {
        parse(&self.seal_to, &self.seal_to_file)
    }
}

/// Recipients by name, and those in files.
pub(crate) fn parse(named: &[String], files: &[PathBuf]) -> Result<Vec<Recipient>> {
    let mut recipients = named.iter().map(|text| Recipient::parse(text)).collect::<Result<Vec<_>, _>>()?;
    for path in files {
        recipients.extend(Recipient::read(path)?);
    }
    Ok(recipients)
}
