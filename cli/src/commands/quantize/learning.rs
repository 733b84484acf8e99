//! What a method learns from, when a model is made and when it is made again.

use crate::{
    exit::Usage,
    model_input::{Compute, Identities},
    work::Work,
};
use anyhow::Result;
use coffer_checkpoint::MemoryAt;
use coffer_compress::{Calibration, Curvature, Importance, quantize::Inputs};
use coffer_engine::{Engine, LoadOptions};
use coffer_evidence::{PartDigest, receipt::Learned};
use coffer_store::Model;
use std::{path::Path, sync::Arc};

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

    /// Runs its first `bytes` through `model`.
    pub(crate) fn learn(&self, bytes: usize, cut: (usize, usize), model: &Model, work: Work) -> Result<(Inputs, Learned)> {
        let none = || Usage("the model has no tokenizer, so no text can be run through it".to_owned());
        let tokenizer = model.tokenizer.as_ref().ok_or_else(none)?;
        let text = self.text.get(..bytes).ok_or_else(|| Usage(format!("{}: it has no first {bytes} bytes", self.name)))?;
        let (window, max_tokens) = cut;
        let calibration = Calibration::new(&self.name, text, tokenizer, window, max_tokens)?;
        let options = LoadOptions { threads: work.threads(), ..Compute::default().options()? };
        let mut progress = work.progress("loading the source");
        let engine = Engine::load(&model.config, &*model.weights, options, &mut |done, total| progress.update(done, total))?;
        drop(progress);
        let mut progress = work.steps("running the text");
        let curvature = Curvature::of(&engine, &calibration, &mut |done, total| progress.update(done, total))?;
        let (name, digest, bytes) = (self.name.clone(), self.digest(), bytes as u64);
        Ok((Inputs::Curvature(Arc::new(curvature)), Learned::Text { name, digest, bytes, window, max_tokens }))
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
