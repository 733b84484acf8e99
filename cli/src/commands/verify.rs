//! `coffer verify`: whether a model is what somebody signed.

mod re_execute;

use crate::{
    exit::{Refused, Usage},
    model_input::Identities,
    output,
    signatures::{Checked, check, refused},
    work::Work,
};
use anyhow::Result;
use coffer_evidence::signature::{Differences, SignatureError, Trust};
use coffer_seal::signing::{Certificate, VerifyingKey};
use coffer_store::{
    StoreError,
    signed::{Look, files},
};
use std::path::PathBuf;

/// Verify that a model (a directory, a GGUF file, or a sealed one) is what was signed, file by file. Takes signatures of `coffer
/// sign` and of `model_signing`. A sealed model is decrypted in memory only. Or, with --re-execute, that a receipt leads to the model that
/// it is about. Exit 3 if the model, the signature or the receipt is refused.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("trust"))]
pub(crate) struct Args {
    /// Directory, file or sealed bundle to verify; or a receipt
    #[arg(value_name = "MODEL")]
    path: PathBuf,
    /// Signature to check
    #[arg(long, value_name = "SIG", required_unless_present = "re_execute", requires = "trust")]
    signature: Option<PathBuf>,
    /// Public key in PEM of whoever must have signed
    #[arg(long, value_name = "PEM", group = "trust")]
    public_key: Option<PathBuf>,
    /// Certificates in PEM that the signing one must lead to: a self-signed root, and any between; may be repeated
    #[arg(long, value_name = "PEM", group = "trust")]
    certificate_chain: Vec<PathBuf>,
    /// File or directory in the model that need not be signed; may be repeated
    #[arg(long, visible_alias = "ignore", value_name = "PATH")]
    ignore_paths: Vec<PathBuf>,
    /// Accept files that nobody signed beside those that were
    #[arg(long)]
    ignore_unsigned_files: bool,
    #[command(flatten)]
    receipt: re_execute::ReExecute,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    work: Work,
}

#[derive(serde::Serialize)]
struct Outcome<'a> {
    verified: bool,
    signer: &'a str,
    model: &'a str,
    files: usize,
    ignored: &'a [String],
    #[serde(flatten)]
    differences: Differences,
}

/// Verifies and tells.
pub(crate) fn run(args: Args) -> Result<()> {
    if args.receipt.re_execute {
        return args.receipt.run(&args.path, &args.identities, args.work);
    }
    let signature = args.signature.as_ref().ok_or_else(|| Usage("name the signature: --signature".to_owned()))?;
    let checked = check(&args.path, signature, &args.trust()?, &args.ignore_paths)?;
    let identities = args.identities.load_for(&args.path)?;
    let look =
        Look { identities, ignored: &checked.ignored, ignore_unsigned: args.ignore_unsigned_files, threads: args.work.threads() };
    let mut progress = args.work.progress("verifying");
    let outcome = files(&args.path, &look, &checked.signed, &mut |done, total| progress.update(done, total));
    drop(progress);
    match outcome {
        Ok(_) => tell(&args, &checked, Differences::default()),
        Err(StoreError::Signature(SignatureError::Differs(differences))) => tell(&args, &checked, differences),
        Err(other) => Err(refused(other)),
    }
}

fn tell(args: &Args, checked: &Checked, differences: Differences) -> Result<()> {
    let statement = checked.signed.statement();
    let verified = differences.is_empty();
    let problem = format!("{}: not what was signed: {differences}", args.path.display());
    let (signer, files) = (checked.signed.signer(), statement.files().len());
    if args.work.json {
        let (model, ignored) = (statement.model(), statement.ignored().paths());
        output::json(&Outcome { verified, signer, model, files, ignored, differences })?;
    } else if verified {
        eprintln!("verified {}: {files} file{} signed by {signer}", args.path.display(), if files == 1 { "" } else { "s" });
    }
    if verified { Ok(()) } else { Err(Refused(problem).into()) }
}

impl Args {
    fn trust(&self) -> Result<Trust> {
        if let Some(path) = &self.public_key {
            return Ok(Trust::Key(VerifyingKey::read(path)?));
        }
        let certificates = self.certificate_chain.iter().map(|path| Certificate::read(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Trust::Certificates(certificates.concat()))
    }
}
