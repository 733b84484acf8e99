//! `coffer keygen`: a key pair; the private half goes into a file, the public half to stdout.

use anyhow::Result;
use coffer_seal::Identity;
use std::path::PathBuf;

/// Make a key. The private key goes into a file that only you may read; the recipient, which others need to seal
/// models for you, is printed. The file is an ordinary age identity file.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File for the private key; an existing file is never overwritten
    #[arg(short, long, value_name = "KEY")]
    output: PathBuf,
    /// Post-quantum: ML-KEM-768 with X25519. Its recipient is 2 kB long; older `age` commands do not know it
    #[arg(long)]
    post_quantum: bool,
}

/// Makes and writes the key.
pub(crate) fn run(args: Args) -> Result<()> {
    crate::hygiene::protect();
    let identity = if args.post_quantum { Identity::generate_post_quantum()? } else { Identity::generate() };
    identity.write(&args.output)?;
    if let Some(recipient) = identity.recipient() {
        outln!("{recipient}");
    }
    Ok(())
}
