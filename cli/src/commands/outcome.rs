//! What every quantized model goes through, however it was made: measured, written, told of, with a receipt.

mod gate;

pub(crate) use gate::{Gate, HeldOut};

use crate::{
    commands::{making, sign},
    model_input::Identities,
    output,
    recipients::SealTo,
    remote::Output,
    unfinished::{Unfinished, absent},
};
use anyhow::{Error, Result};
use coffer_compress::{CompressError, Made, Progress, Summary};
use coffer_evidence::{Receipt, Recipe, WeightsDigest, signature::Signer};
use coffer_seal::Recipient;
use coffer_store::{Destination, Model, Nameless, WorkId};
use gate::{Loss, Measurement};
use std::path::{Path, PathBuf};

/// Flags of where it goes and what must be known of it.
#[derive(clap::Args)]
pub(crate) struct OutcomeFlags {
    /// GGUF file or, for vLLM, directory to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) gate: Gate,
    /// Write how the result was made, so that anyone can make it again (`coffer verify RECEIPT --re-execute`); must not exist
    #[arg(long, value_name = "RECEIPT.json")]
    receipt: Option<PathBuf>,
    /// Sign the receipt with this private key in PEM (`coffer keygen --signing`), into RECEIPT.json.sig
    #[arg(long, value_name = "PEM", requires = "receipt")]
    sign_receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) seal: SealTo,
    #[command(flatten)]
    pub(crate) making: making::Flags,
}

/// All that can be refused before anything takes long is in order.
pub(crate) struct Outcome<'a> {
    flags: &'a OutcomeFlags,
    recipients: Vec<Recipient>,
    receipt: Option<Unfinished<'a>>,
    signer: Option<Signer>,
    measurement: Option<Measurement>,
}

/// A model that can be made.
pub(crate) struct Job<'a> {
    /// What it is made of.
    pub(crate) model: Model,
    pub(crate) recipe: Recipe,
    /// Digest of what it is made of, if that is known.
    pub(crate) source: Option<WeightsDigest>,
    /// What of the text that was learned from is left to measure on.
    pub(crate) held_out: Option<HeldOut>,
    /// Which work it is.
    pub(crate) work: Option<WorkId>,
    /// Makes it. What it needs for that, it lets go of then.
    pub(crate) make: Box<Make<'a>>,
}
type Make<'a> = dyn FnOnce(&Model, Destination<'_>, &mut Progress<'_>) -> Result<Made, CompressError> + 'a;

impl OutcomeFlags {
    /// Looks at everything that is named before anything takes long.
    pub(crate) fn prepare(&self, model: &Model, identities: &Identities) -> Result<Outcome<'_>> {
        if !self.making.dry_run {
            absent(&self.output)?;
        }
        let recipients = self.seal.recipients()?;
        let receipt = self.receipt.as_deref().map(Unfinished::beside_nothing).transpose()?;
        let signer = self.sign_receipt.as_ref().map(|key| sign::signer(key, &[])).transpose()?;
        let measurement = self.gate.prepare(model, identities, !recipients.is_empty())?;
        Ok(Outcome { flags: self, recipients, receipt, signer, measurement })
    }
}

impl Outcome<'_> {
    /// Makes it, measures what was made, gives it a name that says whether it is refused, and tells of it.
    pub(crate) fn of(self, what: &str, job: Job<'_>) -> Result<()> {
        let Job { model, recipe, source, held_out, work, make } = job;
        let Self { flags, recipients, receipt, signer, measurement } = self;
        let making = flags.making;
        let measurement = measurement.map(|m| m.on(&model, held_out)).transpose()?;
        let destination = Destination { path: &flags.output, recipients: &recipients, work };
        let mut progress = making.progress(what);
        let Made { summary, model: made } = make(&model, destination, &mut |done, total| progress.update(done, total))?;
        drop(progress);
        let look = || -> Result<_> {
            let result = made.open()?;
            let loss = measurement.map(|m| m.of(&model, &result, &summary, making.work)).transpose()?;
            let place = loss.as_ref().map_or_else(|| flags.output.to_path_buf(), |loss| loss.place(&flags.output));
            absent(&place)?;
            let digests = receipt.is_some().then(|| digests(source, &model, &result)).transpose()?;
            Ok((loss, place, digests))
        };
        let (loss, place, digests) = match look() {
            Ok(seen) => seen,
            Err(error) => return Err(kept(made, error)),
        };
        made.place(&place)?;
        if let (Some(file), Some(path), Some((source, result))) = (receipt, &flags.receipt, digests) {
            let mut receipt = Receipt::new(recipe, source, result);
            receipt.lost = loss.as_ref().map(serde_json::to_value).transpose()?;
            file.finish_new(receipt.to_json().as_bytes())?;
            signer.map(|signer| sign::beside(path, &signer)).transpose()?;
        }
        if making.work.json {
            output::json(&Told { output: &place, summary: &summary, lost: loss.as_ref() })?;
        } else {
            making.made(&place, &summary)?;
            loss.iter().for_each(Loss::print);
        }
        loss.map_or(Ok(()), |loss| loss.verdict(&place))
    }
}

/// Of the weights of `model`, if it is not known, and of the result.
fn digests(known: Option<WeightsDigest>, model: &Model, result: &Model) -> Result<(WeightsDigest, WeightsDigest)> {
    Ok((known.map_or_else(|| model.weights_digest(), Ok)?, result.weights_digest()?))
}

/// `error`, which says where what was made is left, if it is.
fn kept(made: Nameless, error: Error) -> Error {
    match made.leave() {
        Some(left) => error.context(format!("what was made is kept in {}; the same command goes on from there", left.display())),
        None => error,
    }
}

/// For programs.
#[derive(serde::Serialize)]
struct Told<'a> {
    output: &'a Path,
    #[serde(flatten)]
    summary: &'a Summary,
    lost: Option<&'a Loss>,
}
