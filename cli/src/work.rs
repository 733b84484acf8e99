//! How a command works and tells what it did, for every command that reads or writes whole models.

use crate::{
    model_input::{Compute, threads},
    progress::{Progress, Style},
};
use anyhow::Result;
use coffer_assess::fidelity::{self, Fidelity, OnTheWay, Windows};
use coffer_checkpoint::TensorSource;
use coffer_engine::LoadOptions;
use coffer_model::ModelConfig;
use coffer_store::Model;
use std::{num::NonZeroUsize, sync::Arc};

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

    /// Runs `tokens` through `source` and the model of that shape with `weights`, layer by layer, and measures how far it is from it.
    pub(crate) fn compare(
        self,
        source: &Model,
        (config, weights): (&ModelConfig, Arc<dyn TensorSource>),
        tokens: &[u32],
    ) -> Result<Fidelity> {
        let windows = windows(source, tokens)?;
        let mut progress = self.steps("measuring the loss");
        let (_, result) = fidelity::compare_layerwise(
            OnTheWay { name: "the source", config: &source.config, weights: Arc::clone(&source.weights) },
            OnTheWay { name: "the result", config, weights },
            self.options()?,
            &windows,
            &mut |done, total| progress.update(done, total),
        )?;
        Ok(result)
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

/// The windows in which `tokens` are compared.
pub(crate) fn windows<'a>(source: &Model, tokens: &'a [u32]) -> Result<Windows<'a>> {
    let context = source.config.context;
    Ok(Windows::new(tokens, context.min(512), 0, context)?)
}
