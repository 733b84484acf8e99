//! `coffer keygen`: a key pair; the private half goes into a file, the public half to stdout.

use crate::remote::Output;
use anyhow::{Context, Result, ensure};
use coffer_seal::{Identity, signing::SigningKey};
use std::path::{Path, PathBuf};

/// Make a key. The private key goes into a file that only you may read; the recipient, which others need to seal
/// models for you, is printed. The file is an ordinary age identity file.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File for the private key; an existing file is never overwritten
    #[arg(short, long, value_name = "KEY")]
    output: Output,
    /// Post-quantum: ML-KEM-768 with X25519. Its recipient is 2 kB long; older `age` commands do not know it
    #[arg(long)]
    post_quantum: bool,
    /// Make a key that signs models (ECDSA on P-256, PKCS#8 in PEM); its public half goes to KEY.pub as well
    #[arg(long, conflicts_with = "post_quantum")]
    signing: bool,
}

/// Makes and writes the key.
pub(crate) fn run(args: Args) -> Result<()> {
    crate::hygiene::protect();
    if args.signing {
        return signing_key(&args.output);
    }
    let identity = if args.post_quantum { Identity::generate_post_quantum()? } else { Identity::generate() };
    identity.write(&args.output)?;
    if let Some(recipient) = identity.recipient() {
        outln!("{recipient}");
    }
    Ok(())
}

fn signing_key(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    let public_path = PathBuf::from(name);
    ensure!(!public_path.exists(), "{}: exists already; remove it or choose another name", public_path.display());
    let key = SigningKey::generate()?;
    let public = key.verifying_key()?.to_pem();
    key.write(path)?;
    std::fs::write(&public_path, &public).with_context(|| public_path.display().to_string())?;
    out!("{public}");
    Ok(())
}
