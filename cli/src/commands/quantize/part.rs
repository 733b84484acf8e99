//! One part of the work, for another process to gather.

use crate::{commands::making, unfinished::absent};
use anyhow::{Result, ensure};
use coffer_compress::{
    quantize::QuantizeParams,
    shard::{self, Part},
};
use coffer_evidence::Recipe;
use coffer_seal::{Identity, Recipient};
use coffer_store::{Destination, Model, Shard};
use std::path::Path;

/// Writes `part` of what would be written to `output`, beside it. One that is there from an earlier run of the same work is kept, so
/// that a job that is started again does nothing twice.
pub(super) fn write(
    (model, params): (&Model, &QuantizeParams),
    (part, recipe): (Part, Recipe),
    output: &Path,
    (identities, recipients): (&[Identity], &[Recipient]),
    making: making::Flags,
) -> Result<()> {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(part.suffix());
    let path = output.with_file_name(name);
    let mut progress = making.progress("reading");
    let header = shard::header(model, params, part, recipe, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    if path.exists() {
        let there = Shard::open(&path, identities).is_ok_and(|s| s.header() == &header && s.verify(&mut |_| ()).is_ok());
        ensure!(there, absent(&path).err().unwrap_or_else(|| anyhow::anyhow!("{} went away", path.display())));
        eprintln!("{}: is there already, made of the same model in the same way", path.display());
        return Ok(());
    }
    let out = Destination { path: &path, recipients, work: None };
    let mut progress = making.progress("quantizing");
    let summary = shard::quantize_part(model, out, params, &header, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    making.made(&path, &summary)
}
