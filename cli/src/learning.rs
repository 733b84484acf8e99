//! What a method learns from, when a model is made and when it is made again.

use crate::{exit::Usage, model_input::Identities, work::Work};
use anyhow::Result;
use coffer_checkpoint::MemoryAt;
use coffer_compress::{
    Calibration, Curvature, Importance,
    quantize::{self, Inputs, QuantizeParams},
};
use coffer_evidence::{PartDigest, receipt::Learned};
use coffer_store::Model;
use std::{path::Path, sync::Arc};

/// How a text is cut.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Tokens of the text to use at most
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    max_tokens: usize,
    /// Tokens of a window; each is run on its own [default: 512, or the model's context if that is less]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
}

impl Cut {
    /// Tokens of a window, and most tokens, for a model.
    pub(crate) fn of(self, model: &Model) -> (usize, usize) {
        (self.window.unwrap_or(512).min(model.config.context), self.max_tokens)
    }
}

/// Longest importance matrix that is read: 2 · columns · 4 bytes for each matrix, and no model has 10⁹ columns in all.
const IMATRIX_LIMIT: u64 = 1 << 33;

/// Reads an importance matrix for `model`.
pub(crate) fn imatrix(path: &Path, model: &Model) -> Result<(Inputs, Learned)> {
    let size = std::fs::metadata(path).map_err(|e| Usage(format!("{}: {e}", path.display())))?.len();
    anyhow::ensure!(size <= IMATRIX_LIMIT, "{}: {size} bytes are too many for an importance matrix", path.display());
    let bytes = std::fs::read(path)?;
    let name = path.display().to_string();
    let learned = Learned::Imatrix { name: file_name(path), digest: PartDigest::of(&bytes) };
    let importance = Importance::read(&name, Arc::new(MemoryAt::new(&*name, bytes)), &model.config)?;
    Ok((Inputs::Importance(Arc::new(importance)), learned))
}

/// A text to learn from.
pub(crate) struct Text {
    name: String,
    text: String,
}

impl Text {
    /// Reads it, plain or sealed.
    pub(crate) fn read(path: &Path, identities: &Identities) -> Result<Self> {
        Ok(Self { name: file_name(path), text: identities.read_text(path)? })
    }

    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Digest of all of it.
    pub(crate) fn digest(&self) -> PartDigest {
        PartDigest::of(self.text.as_bytes())
    }

    /// Its first `bytes`, cut for `model` into windows of so many tokens, so many in all.
    pub(crate) fn calibration(&self, bytes: usize, (window, max_tokens): (usize, usize), model: &Model) -> Result<Calibration> {
        let none = || Usage("the model has no tokenizer, so no text can be run through it".to_owned());
        let tokenizer = model.tokenizer.as_ref().ok_or_else(none)?;
        let text = self.text.get(..bytes).ok_or_else(|| Usage(format!("{}: it has no first {bytes} bytes", self.name)))?;
        Ok(Calibration::new(&self.name, text, tokenizer, window, max_tokens)?)
    }

    /// The same, and what a receipt says of it.
    pub(crate) fn lesson(&self, bytes: usize, cut: (usize, usize), model: &Model) -> Result<(Calibration, Learned)> {
        let calibration = self.calibration(bytes, cut, model)?;
        let (name, digest, bytes) = (self.name.clone(), self.digest(), bytes as u64);
        Ok((calibration, Learned::Text { name, digest, bytes, window: cut.0, max_tokens: cut.1 }))
    }
}

/// What `model` does with `calibration`, as `method` (`gptq` or `awq`) wants it for rounding it as `params` say.
pub(crate) fn inputs(
    method: &str,
    calibration: &Calibration,
    model: &Model,
    params: &QuantizeParams,
    work: Work,
) -> Result<Inputs> {
    if method != "awq" {
        return Ok(Inputs::Curvature(Arc::new(Curvature::new(model, work.options()?, calibration))));
    }
    let mut progress = work.steps("looking for factors");
    let lesson = (work.options()?, calibration);
    let found = quantize::equalize(model, params, lesson, &mut |done, total| progress.update(done, total))?;
    Ok(Inputs::Equalized(Arc::new(found)))
}

/// The last part of a path.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
