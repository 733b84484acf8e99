//! Whose signature a model must carry, where the signature lies, and what it does not cover.

use crate::{
    exit::{Refused, Usage},
    model_input::read_bounded,
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_checkpoint::ReadError;
use coffer_evidence::signature::{Ignored, MAX_LEN, Signature, SignatureChecked, SignatureError, Trust};
use coffer_seal::{Identity, bundle::Bundle};
use coffer_store::{
    FileSet, Model, StoreError,
    signed::{self, Look},
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Name of a signature inside a directory, as `model_signing` has it.
const INSIDE: &str = "model.sig";

/// Who must have signed the models that are used.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Demanded {
    /// Use a model or adapter only if this key signed every file of it (MODEL/model.sig or MODEL.sig): a public key in PEM, or the
    /// certificate that vouches for the signing one
    #[arg(long, value_name = "PUB")]
    require_signature: Option<PathBuf>,
}

/// The same, where there is one model, whose signature can lie anywhere.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct DemandedOfOne {
    #[command(flatten)]
    pub(crate) demanded: Demanded,
    /// The model's signature, if it does not lie there
    #[arg(long, value_name = "SIG", requires = "require_signature")]
    signature: Option<PathBuf>,
}

/// A signature that was checked, and what of the model it leaves out because it lies there itself.
pub(crate) struct Checked {
    pub(crate) signed: SignatureChecked,
    pub(crate) ignored: Ignored,
}

impl Demanded {
    /// Who that is, to hand it on.
    pub(crate) fn public(&self) -> Option<&Path> {
        self.require_signature.as_deref()
    }

    /// Files of a model or adapter; if a signature is demanded, only so that every read is held against it.
    pub(crate) fn files(&self, path: &Path, identities: &[Identity]) -> Result<FileSet> {
        files(path, identities, self.check(path, None)?)
    }

    /// Opens a model, likewise.
    pub(crate) fn open(&self, path: &Path, identities: &[Identity]) -> Result<Model> {
        Ok(coffer_store::open_files(path, self.files(path, identities)?)?)
    }

    fn check(&self, path: &Path, signature: Option<&Path>) -> Result<Option<Checked>> {
        let Some(public) = &self.require_signature else { return Ok(None) };
        let signature = signature.map_or_else(|| find(path), |signature| Ok(signature.to_owned()))?;
        check(path, &signature, &Trust::read(public)?, &[]).map(Some)
    }
}

impl DemandedOfOne {
    /// Checks the signature of the model at `path`; `None` if none is demanded. The model itself is not looked at yet.
    pub(crate) fn check(&self, path: &Path) -> Result<Option<Checked>> {
        self.demanded.check(path, self.signature.as_deref())
    }

    /// As [`Demanded::files`].
    pub(crate) fn files(&self, path: &Path, identities: &[Identity]) -> Result<FileSet> {
        files(path, identities, self.check(path)?)
    }
}

impl Checked {
    /// Compares every file of the model at `path` with what was signed.
    pub(crate) fn files(&self, path: &Path, look: &Look<'_>, style: Style) -> Result<FileSet> {
        let mut progress = Progress::bytes(style, "verifying");
        let files = signed::files(path, look, &self.signed, &mut |done, total| progress.update(done, total));
        files.map_err(refused)
    }
}

fn files(path: &Path, identities: &[Identity], checked: Option<Checked>) -> Result<FileSet> {
    match checked {
        None => Ok(FileSet::open(path, identities)?),
        Some(checked) => checked.files(path, &look(identities, &checked.ignored), Style::Auto),
    }
}

/// Reads `signature` and checks that `trust` made it; `ignore` are further paths that it need not cover.
pub(crate) fn check(model: &Path, signature: &Path, trust: &Trust, ignore: &[PathBuf]) -> Result<Checked> {
    let parsed = Signature::parse(&read_bounded(signature, MAX_LEN)?);
    let signed = parsed.and_then(|s| s.verify(trust)).map_err(|e| Refused(format!("{}: {e}", signature.display())))?;
    Ok(Checked { signed, ignored: ignored(model, signature, ignore) })
}

/// Every core, and nothing let pass.
pub(crate) fn look<'a>(identities: &'a [Identity], ignored: &'a Ignored) -> Look<'a> {
    Look { identities, ignored, ignore_unsigned: false, threads: crate::model_input::threads(None) }
}

/// What is always ignored, `paths`, and the signature if it lies in the model.
pub(crate) fn ignored(model: &Path, signature: &Path, paths: &[PathBuf]) -> Ignored {
    let root = std::path::absolute(model).unwrap_or_else(|_| model.to_owned());
    let own = std::path::absolute(signature).ok().and_then(|path| path.strip_prefix(&root).ok().map(Path::to_owned));
    // A path can be given as it is in the model, or as it is on the disk.
    let inside =
        paths.iter().map(|path| path.strip_prefix(model).or_else(|_| path.strip_prefix(&root)).unwrap_or(path).to_owned());
    let all: Vec<String> = inside.chain(own).map(|path| path.to_string_lossy().into_owned()).collect();
    Ignored::new(all.iter().map(String::as_str))
}

/// A model that is not what was signed is refused (exit 3), whatever noticed it.
pub(crate) fn refused(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Signature(SignatureError::Differs(_)) | StoreError::Read(ReadError::Refused { .. }) => {
            Refused(error.to_string()).into()
        }
        other => other.into(),
    }
}

fn find(model: &Path) -> Result<PathBuf> {
    let inside = model.join(INSIDE);
    if inside.is_file() && !Bundle::is_bundle(model) {
        return Ok(inside);
    }
    let mut name = OsString::from(model.components().as_path());
    name.push(".sig");
    let beside = PathBuf::from(name);
    match beside.is_file() {
        true => Ok(beside),
        false => Err(Usage(format!(
            "{}: no signature beside it; name it with --signature, or put it at {}",
            model.display(),
            beside.display()
        ))
        .into()),
    }
}
