//! How a command works and tells what it did, for every command that reads or writes whole models.

use crate::{
    model_input::{Compute, load_engine, threads},
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_assess::fidelity::{self, Fidelity, Loaded, Windows};
use coffer_checkpoint::TensorSource;
use coffer_engine::{Engine, LoadOptions};
use coffer_model::ModelConfig;
use coffer_store::Model;
use std::num::NonZeroUsize;

/// Flags of such commands.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Threads; the result does not depend on them [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

impl Work {
    /// Threads to use.
    pub(crate) fn threads(self) -> usize {
        threads(self.threads)
    }

    /// Loads `weights` of a model of that shape, to be run as it is by default.
    pub(crate) fn load(self, what: &str, config: &ModelConfig, weights: &dyn TensorSource) -> Result<Engine> {
        load_engine(config, weights, self.options()?, self.progress(what))
    }

    /// Runs `tokens` through `source` and the model of that shape with `weights`, which is told as `what`, and measures how far it is
    /// from it.
    pub(crate) fn compare(
        self,
        source: &Model,
        (what, config, weights): (&str, &ModelConfig, &dyn TensorSource),
        tokens: &[u32],
    ) -> Result<Fidelity> {
        let source = self.load("loading the source", &source.config, &*source.weights)?;
        let result = self.load(what, config, weights)?;
        let windows = Windows::new(tokens, source.context().min(512), 0, source.context())?;
        let mut progress = self.steps("measuring the loss");
        let (_, mut beside) = fidelity::compare(
            Loaded { name: "the source", engine: &source },
            &[Loaded { name: "the result", engine: &result }],
            &windows,
            &mut |done, total| progress.update(done, total),
        )?;
        Ok(beside.remove(0))
    }

    /// How an engine is loaded to be run as it is by default.
    pub(crate) fn options(self) -> Result<LoadOptions> {
        Ok(LoadOptions { threads: self.threads(), ..Compute::default().options()? })
    }

    /// Progress of `what`, in bytes.
    pub(crate) fn progress(self, what: &str) -> Progress {
        Progress::bytes(self.progress, what)
    }

    /// Progress of `what`, in steps.
    pub(crate) fn steps(self, what: &str) -> Progress {
        Progress::steps(self.progress, what)
    }
}
