//! `coffer sign`: a signature over every file of a model.

use crate::{
    exit::Usage,
    model_input::Identities,
    output,
    remote::Output,
    signatures::{ignored, refused},
    unfinished::Unfinished,
    work::Work,
};
use anyhow::Result;
use coffer_evidence::signature::{Ignored, Signer, Statement};
use coffer_seal::signing::{Certificate, SigningKey};
use coffer_store::signed::{Look, statement};
use std::path::{Path, PathBuf};

/// Sign a model: a directory, a GGUF file, or a sealed one (its content, not its encryption). The signature follows OpenSSF Model
/// Signing v1, which `coffer verify` and `model_signing verify` check.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory, file or sealed bundle to sign
    #[arg(value_name = "MODEL")]
    path: PathBuf,
    /// Private key in PEM, on P-256, P-384 or P-521; `coffer keygen --signing` makes one
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
    /// Certificates in PEM: the key's own first, then those that vouch for it; may be repeated
    #[arg(long, value_name = "PEM")]
    certificate_chain: Vec<PathBuf>,
    /// Signature to write; an existing one is replaced
    #[arg(short, long, value_name = "SIG")]
    output: Output,
    /// File or directory in the model to leave out; may be repeated
    #[arg(long, visible_alias = "ignore", value_name = "PATH")]
    ignore_paths: Vec<PathBuf>,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    work: Work,
}

#[derive(serde::Serialize)]
struct Signed {
    signature: String,
    key: String,
    model: String,
    files: usize,
    ignored: Vec<String>,
}

/// Hashes and signs.
pub(crate) fn run(args: Args) -> Result<()> {
    if args.output.is_dir() {
        return Err(Usage(format!("{}: is a directory; name the file to write with -o", args.output.display())).into());
    }
    let signer = signer(&args.key, &args.certificate_chain)?;
    let fingerprint = signer.key()?.fingerprint();
    let identities = args.identities.load_for(&args.path)?;
    let ignored = ignored(&args.path, &args.output, &args.ignore_paths);
    let look = Look { identities, ignored: &ignored, ignore_unsigned: false, threads: args.work.threads() };
    let mut progress = args.work.progress("hashing");
    let statement = statement(&args.path, &look, &mut |done, total| progress.update(done, total)).map_err(refused)?;
    drop(progress);
    Unfinished::beside(&args.output)?.finish(signer.sign(&statement)?.as_bytes())?;
    tell(&args, fingerprint, &statement)
}

/// Whoever has the private key `key`, for whom the certificates vouch.
pub(crate) fn signer(key: &Path, certificate_chain: &[PathBuf]) -> Result<Signer> {
    crate::hygiene::protect();
    let key = SigningKey::read(key)?;
    let chain = certificate_chain.iter().map(|path| Certificate::read(path)).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Signer::new(key, chain)?)
}

/// Signs a plain file into FILE.sig, where signatures are looked for.
pub(crate) fn beside(file: &Path, signer: &Signer) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    let look = Look { identities: &[], ignored: &Ignored::new([]), ignore_unsigned: false, threads: 1 };
    let statement = statement(file, &look, &mut |_, _| {}).map_err(refused)?;
    Unfinished::beside(Path::new(&name))?.finish(signer.sign(&statement)?.as_bytes())
}

fn tell(args: &Args, key: String, statement: &Statement) -> Result<()> {
    let files = statement.files().len();
    if args.work.json {
        return output::json(&Signed {
            signature: args.output.display().to_string(),
            key,
            model: statement.model().to_owned(),
            files,
            ignored: statement.ignored().paths().to_vec(),
        });
    }
    eprintln!(
        "signed {files} file{} of {} into {}",
        if files == 1 { "" } else { "s" },
        args.path.display(),
        args.output.display()
    );
    Ok(())
}
