//! What the commands that make a model share: `--dry-run`, and how the outcome is told.

use crate::{
    output::{self, Table},
    progress::Progress,
    work::Work,
};
use anyhow::Result;
use coffer_compress::{Plan, Summary};
use coffer_store::{Model, WorkId};
use std::path::Path;

/// Flags of every command that makes a model.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Flags {
    /// Only say what would be written, and what that takes
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) work: Work,
}

impl Flags {
    /// Threads to use.
    pub(crate) fn threads(self) -> usize {
        self.work.threads()
    }

    /// Progress of `what`, in bytes.
    pub(crate) fn progress(self, what: &str) -> Progress {
        self.work.progress(what)
    }

    /// Tells what would be made.
    pub(crate) fn planned(self, plan: &Plan) -> Result<()> {
        if self.work.json {
            return output::json(plan);
        }
        let mut table = Table::new(&["tensor", "type", "shape", ">bytes"]);
        for t in &plan.outputs {
            table.row([t.name.clone(), t.dtype.clone(), format!("{:?}", t.shape), output::count(t.bytes)]);
        }
        out!("{table}");
        outln!("{}", describe(&plan.summary));
        outln!("{} steps, {} of memory at the busiest moment; nothing was written", plan.steps, output::bytes(plan.peak_memory));
        Ok(())
    }

    /// Tells what was made.
    pub(crate) fn made(self, out: &Path, summary: &Summary) -> Result<()> {
        if self.work.json {
            return output::json(summary);
        }
        outln!("{}: {}", out.display(), describe(summary));
        if summary.kept > 0 {
            outln!("{} of the tensors were there from an interrupted run", summary.kept);
        }
        Ok(())
    }
}

/// Identity of the work of making something of `model`, so that the same, interrupted, can go on.
pub(crate) fn work_id(model: &Model, how: &impl serde::Serialize) -> Option<WorkId> {
    let (stamp, how) = (model.stamp?, serde_json::to_vec(how).ok()?);
    Some(WorkId::of(&[env!("CARGO_PKG_VERSION").as_bytes(), &stamp.0, &how]))
}

/// Bytes before and after, bits per weight, types.
pub(crate) fn describe(summary: &Summary) -> String {
    let types: Vec<String> = summary.types.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let (before, after) = (output::bytes(summary.bytes_in), output::bytes(summary.bytes_out));
    format!(
        "{before} -> {after}, {:.2} bits per weight ({} tensors: {})",
        summary.bits_per_weight,
        summary.tensors,
        types.join(", ")
    )
}
