//! `coffer quantize`: fewer bits per weight, as GGUF.

mod gate;

use crate::{
    commands::{imatrix::Cut, making},
    model_input::{Compute, ModelArgs},
    output,
    recipients::SealTo,
    remote::Output,
};
use anyhow::{Result, ensure};
use coffer_checkpoint::FileAt;
use coffer_compress::{
    CompressError, Curvature, Importance, Summary,
    quantize::{self, Inputs, QuantizeParams, Rounded, Scheme},
};
use coffer_engine::{Engine, LoadOptions};
use coffer_model::ModelConfig;
use coffer_store::{Destination, Model};
use gate::{Gate, HeldOut, Loss};
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
    /// Text like that which the model will see, plain or sealed: each column makes up for what those before it lost (GPTQ)
    #[arg(long, value_name = "FILE", conflicts_with = "imatrix")]
    text: Option<PathBuf>,
    #[command(flatten)]
    cut: Cut,
    #[command(flatten)]
    gate: Gate,
    #[command(flatten)]
    seal: SealTo,
    #[command(flatten)]
    making: making::Flags,
}

/// Quantizes.
pub(crate) fn run(args: Args) -> Result<()> {
    let recipients = args.seal.recipients()?;
    let model = args.model.open()?;
    let (inputs, held_out) = args.inputs(&model)?;
    let params = QuantizeParams { scheme: args.scheme, requantize: args.requantize, inputs, threads: args.making.threads() };
    if args.making.dry_run {
        return args.making.planned(&quantize::plan(&model, &params).map_err(with_flag)?);
    }
    // What is wrong with the request is said before anything takes long.
    quantize::plan(&model, &params).map_err(with_flag)?;
    ensure!(!args.output.exists(), "{}: exists already; nothing is overwritten", args.output.display());
    let rounded = Rounded::with(&model, &params);
    let loss = args.gate.measure(&model, &rounded, held_out, &args.model.identities, args.making.work)?;
    let place = loss.as_ref().map_or_else(|| Ok(args.output.to_path_buf()), |loss| loss.place(&args.output))?;
    let output = Destination { path: &place, recipients: &recipients };
    let mut progress = args.making.progress("quantizing");
    let made = quantize::quantize(&model, output, &params, &mut |done, total| progress.update(done, total));
    let summary = made.map_err(with_flag)?;
    drop(progress);
    if args.making.work.json {
        output::json(&Made { output: &place, summary: &summary, lost: loss.as_ref() })?;
    } else {
        args.making.made(&place, &summary)?;
        loss.iter().for_each(Loss::print);
    }
    loss.map_or(Ok(()), |loss| loss.verdict(&place))
}

impl Args {
    /// What the text or the importance matrix says, and what of the text is left to measure on.
    fn inputs(&self, model: &Model) -> Result<(Inputs, Option<HeldOut>)> {
        if let Some(path) = &self.imatrix {
            return Ok((Inputs::Importance(Arc::new(read_imatrix(path, &model.config)?)), None));
        }
        let Some(path) = &self.text else { return Ok((Inputs::Unknown, None)) };
        let text = self.model.identities.read_text(path)?;
        let (learned, held_out) = self.gate.split(path, &text);
        let calibration = self.cut.calibration(path, learned, model)?;
        let options = LoadOptions { threads: self.making.threads(), ..Compute::default().options()? };
        let engine = Engine::load(&model.config, &*model.weights, options, &mut |_, _| {})?;
        let mut progress = self.making.steps("running the text");
        let curvature = Curvature::of(&engine, &calibration, &mut |done, total| progress.update(done, total))?;
        Ok((Inputs::Curvature(Arc::new(curvature)), held_out))
    }
}

fn read_imatrix(path: &Path, config: &ModelConfig) -> Result<Importance> {
    let file = FileAt::open(path)?;
    Ok(Importance::read(&path.display().to_string(), Arc::new(file), config)?)
}

/// For programs.
#[derive(serde::Serialize)]
struct Made<'a> {
    output: &'a Path,
    #[serde(flatten)]
    summary: &'a Summary,
    lost: Option<&'a Loss>,
}

/// Names the flag where the library names what it allows.
fn with_flag(error: CompressError) -> anyhow::Error {
    match error {
        CompressError::Requantize { .. } => anyhow::anyhow!("{error} (--requantize)"),
        other => other.into(),
    }
}
