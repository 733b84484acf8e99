//! `coffer quantize`: fewer bits per weight, as GGUF.

use crate::{commands::making, model_input::ModelArgs, recipients::SealTo, remote::Output};
use anyhow::Result;
use coffer_checkpoint::FileAt;
use coffer_compress::{
    CompressError, Importance,
    quantize::{self, QuantizeParams, Scheme},
};
use coffer_model::ModelConfig;
use coffer_store::Destination;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Write a model with fewer bits per weight, as a GGUF file. The bytes are the same on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Type to write: Q4_K_M and the other names of GGUF; docs/compress.md says what each means
    #[arg(long = "type", value_name = "TYPE")]
    scheme: Scheme,
    /// GGUF file to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "OUT.gguf")]
    output: Output,
    /// Accept a source that is quantized already: what it lost stays lost
    #[arg(long)]
    requantize: bool,
    /// How much each column counts, as `coffer imatrix` or llama-imatrix measured it: less is lost where it matters
    #[arg(long, value_name = "IMATRIX.gguf")]
    imatrix: Option<PathBuf>,
    #[command(flatten)]
    seal: SealTo,
    #[command(flatten)]
    making: making::Flags,
}

/// Quantizes.
pub(crate) fn run(args: Args) -> Result<()> {
    let recipients = args.seal.recipients()?;
    let model = args.model.open()?;
    let importance = args.imatrix.as_deref().map(|path| read_imatrix(path, &model.config)).transpose()?.map(Arc::new);
    let params = QuantizeParams { scheme: args.scheme, requantize: args.requantize, importance, threads: args.making.threads() };
    if args.making.dry_run {
        return args.making.planned(&quantize::plan(&model, &params).map_err(with_flag)?);
    }
    let output = Destination { path: &args.output, recipients: &recipients };
    let mut progress = args.making.progress("quantizing");
    let made = quantize::quantize(&model, output, &params, &mut |done, total| progress.update(done, total));
    let summary = made.map_err(with_flag)?;
    drop(progress);
    args.making.made(&args.output, &summary)
}

fn read_imatrix(path: &Path, config: &ModelConfig) -> Result<Importance> {
    let file = FileAt::open(path)?;
    Ok(Importance::read(&path.display().to_string(), Arc::new(file), config)?)
}

/// Names the flag where the library names what it allows.
fn with_flag(error: CompressError) -> anyhow::Error {
    match error {
        CompressError::Requantize { .. } => anyhow::anyhow!("{error} (--requantize)"),
        other => other.into(),
    }
}
