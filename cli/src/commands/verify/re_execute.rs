//! Makes a model again, as its receipt says, and compares.

use crate::{
    exit::{Refused, Usage},
    learning::{self, Text},
    model_input::{Identities, read_bounded},
    output,
    work::Work,
};
use anyhow::{Context, Result};
use coffer_checkpoint::{ReadError, TensorId, TensorSource};
use coffer_compress::{
    METHODS,
    quantize::{self, Inputs, QuantizeParams, Rounded},
};
use coffer_evidence::{
    Receipt,
    receipt::{Learned, MAX_LEN},
};
use coffer_store::Model;
use std::path::{Path, PathBuf};

/// Flags that only a receipt needs.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ReExecute {
    /// MODEL is a receipt of `coffer quantize`: make its model again and compare, byte by byte
    #[arg(long, requires = "source", requires = "result", conflicts_with_all = ["signature", "trust"])]
    pub(super) re_execute: bool,
    /// Model that the receipt's was made of
    #[arg(long, value_name = "MODEL", requires = "re_execute")]
    source: Option<PathBuf>,
    /// Model that the receipt is about
    #[arg(long, value_name = "MODEL", requires = "re_execute")]
    result: Option<PathBuf>,
    /// Text that was learned from
    #[arg(long, value_name = "FILE", requires = "re_execute")]
    text: Option<PathBuf>,
    /// Importance matrix that was learned from
    #[arg(long, value_name = "FILE", requires = "re_execute")]
    imatrix: Option<PathBuf>,
    /// Compare so many tensors, drawn at random, instead of all
    #[arg(long, value_name = "N", requires = "re_execute")]
    sample: Option<usize>,
}

/// Bytes that are compared at a time.
const STEP: u64 = 4 << 20;

impl ReExecute {
    /// Makes it again.
    pub(super) fn run(&self, path: &Path, identities: &Identities, work: Work) -> Result<()> {
        let (Some(source), Some(result)) = (&self.source, &self.result) else {
            return Err(Usage("--re-execute needs --source and --result".to_owned()).into());
        };
        let receipt = Receipt::parse(&read_bounded(path, MAX_LEN as u64)?).with_context(|| path.display().to_string())?;
        known(&receipt)?;
        let open = |path: &Path| -> Result<Model> { Ok(coffer_store::open(path, identities.load_for(path)?)?) };
        let (source, result) = (open(source)?, open(result)?);
        for (what, model, wanted) in [("source", &source, receipt.source), ("result", &result, receipt.result)] {
            let found = model.weights_digest()?;
            same(found == wanted, || format!("the {what} has weights {found}, the receipt's has {wanted}"))?;
        }
        let scheme = receipt.parameters.scheme.parse().map_err(|e| Refused(format!("receipt: {e}")))?;
        let (requantize, threads) = (receipt.parameters.requantize, work.threads());
        let types = receipt.parameters.types.iter().map(|(name, dtype)| Ok((name.clone(), dtype.parse()?)));
        let types = types.collect::<Result<_, String>>().map_err(|e| Refused(format!("receipt: {e}")))?;
        let params = QuantizeParams { scheme, types, requantize, inputs: Inputs::Unknown, threads };
        let inputs = self.inputs(&receipt, &source, &params, identities, work)?;
        let params = QuantizeParams { inputs, ..params };
        quantize::plan(&source, &params).map_err(|e| Refused(format!("the receipt cannot be followed: {e}")))?;
        let made = Rounded::with(&source, &params);
        // What was learned decides on the method.
        same(made.method() == receipt.method, || {
            format!("the receipt says {}, and what was learned from leads to {}", receipt.method, made.method())
        })?;
        let tensors = self.drawn(made.index().iter().map(|(id, _)| id).collect())?;
        let mut progress = work.steps("making again");
        for (done, &id) in tensors.iter().enumerate() {
            progress.update(done as u64, tensors.len() as u64);
            compare(&made, id, &*result.weights)?;
        }
        drop(progress);
        let all = made.index().iter().count();
        if work.json {
            return output::json(&serde_json::json!({
                "equal": true, "method": receipt.method, "tensors": tensors.len(), "of": all,
            }));
        }
        outln!("equal: {} of {all} tensors made again by {}, byte by byte", tensors.len(), receipt.method);
        Ok(())
    }

    /// What was learned, from the same file.
    fn inputs(
        &self,
        receipt: &Receipt,
        source: &Model,
        params: &QuantizeParams,
        identities: &Identities,
        work: Work,
    ) -> Result<Inputs> {
        let (is, named) = (receipt.learned.as_ref().map(Learned::digest), |path: &Path| path.display().to_string());
        match &receipt.learned {
            None => Ok(Inputs::Unknown),
            Some(Learned::Imatrix { name, .. }) => {
                let path =
                    self.imatrix.as_ref().ok_or_else(|| Usage(format!("name the importance matrix, {name}: --imatrix")))?;
                let (inputs, learned) = learning::imatrix(path, source)?;
                same(is == Some(learned.digest()), || {
                    format!("{} is not the importance matrix that was learned from", named(path))
                })?;
                Ok(inputs)
            }
            Some(Learned::Text { name, bytes, window, max_tokens, .. }) => {
                let path =
                    self.text.as_ref().ok_or_else(|| Usage(format!("name the text that was learned from, {name}: --text")))?;
                let text = Text::read(path, identities)?;
                same(is == Some(text.digest()), || format!("{} is not the text that was learned from", named(path)))?;
                let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
                let calibration = text.calibration(bytes, (*window, *max_tokens), source)?;
                let method = receipt.method.split('@').next().unwrap_or_default();
                learning::inputs(method, &calibration, source, params, work)
            }
        }
    }

    /// All tensors, or some at random.
    fn drawn(&self, mut tensors: Vec<TensorId>) -> Result<Vec<TensorId>> {
        let Some(count) = self.sample else { return Ok(tensors) };
        for i in 0..count.min(tensors.len()) {
            let j = i + (getrandom::u64()? % (tensors.len() - i) as u64) as usize;
            tensors.swap(i, j);
        }
        tensors.truncate(count);
        // In the order of the layers a text is run once.
        tensors.sort();
        Ok(tensors)
    }
}

/// Refuses what this release makes otherwise.
fn known(receipt: &Receipt) -> Result<()> {
    let ours = coffer_kernels::CONTRACT;
    same(receipt.contract == ours, || {
        format!("the receipt is of contract {}, this release computes {ours}; use a release of that contract", receipt.contract)
    })?;
    same(METHODS.iter().any(|entry| entry.id == receipt.method), || {
        format!("this release has no method {}; use one of that time", receipt.method)
    })
}

/// Compares tensor `id` of what was made again with that of the same name.
fn compare(made: &Rounded, id: TensorId, result: &dyn TensorSource) -> Result<()> {
    let info = made.index().get(id);
    let there = result.index().find(&info.name);
    let same_kind = there.map(|t| result.index().get(t)).is_some_and(|t| (t.dtype, &t.shape) == (info.dtype, &info.shape));
    let Some(there) = there.filter(|_| same_kind) else {
        return Err(Refused(format!("tensor {} is not in the result, or of another type", info.name)).into());
    };
    let row_bytes = info.row_bytes().unwrap_or(0).max(1);
    let rows = (STEP / row_bytes).max(1);
    for first in (0..info.rows()).step_by(usize::try_from(rows)?) {
        let range = first..(first + rows).min(info.rows());
        let read = |source: &dyn TensorSource, id| -> Result<Vec<u8>, ReadError> {
            let mut bytes = vec![0; ((range.end - range.start) * row_bytes) as usize];
            source.read_rows(id, range.clone(), &mut bytes)?;
            Ok(bytes)
        };
        let (a, b) = (read(made, id)?, read(result, there)?);
        let at = a.iter().zip(&b).position(|(a, b)| a != b);
        same(at.is_none(), || {
            format!("tensor {}, row {}: the receipt does not lead here", info.name, first + at.unwrap_or(0) as u64 / row_bytes)
        })?;
    }
    Ok(())
}

fn same(equal: bool, says: impl FnOnce() -> String) -> Result<()> {
    if equal { Ok(()) } else { Err(Refused(says()).into()) }
}
