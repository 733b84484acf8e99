//! `coffer quantize`: fewer bits per weight, as GGUF or for vLLM.

mod automatic;
mod gate;

use crate::{
    commands::making,
    exit::Usage,
    learning::{self, Cut, Text},
    model_input::ModelArgs,
    output,
    recipients::SealTo,
    remote::Output,
    unfinished::{Unfinished, absent},
};
use anyhow::Result;
use automatic::Automatic;
use coffer_checkpoint::DType;
use coffer_compress::{
    CompressError, Summary,
    quantize::{self, Inputs, Pin, QuantizeParams, Rounded, Scheme},
};
use coffer_evidence::{
    Receipt,
    receipt::{Learned, Parameters},
};
use coffer_store::{Destination, Model};
use gate::{Gate, HeldOut, Loss, Measurement};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Write a model with fewer bits per weight, as a GGUF file or for vLLM. The bytes are the same on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Type to write: Q4_K_M and the other names of GGUF, or W4A16, W8A8, FP8 for vLLM; docs/compress.md says what each means
    #[arg(long = "type", value_name = "TYPE", required_unless_present_any = ["target_size", "target_bpw", "max_kl"])]
    scheme: Option<Scheme>,
    #[command(flatten)]
    automatic: Automatic,
    /// Give every matrix in whose name PATTERN (a regular expression) is found this type; of several the first decides
    #[arg(long, value_name = "PATTERN=TYPE")]
    pin: Vec<Pin>,
    /// GGUF file or, for vLLM, directory to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "OUT")]
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
    /// What to do with --text
    #[arg(long, value_name = "METHOD", requires = "text", default_value = "gptq", value_parser = ["gptq", "awq"])]
    method: String,
    #[command(flatten)]
    cut: Cut,
    #[command(flatten)]
    gate: Gate,
    /// Write how the result was made, so that anyone can make it again (`coffer verify RECEIPT --re-execute`); must not exist
    #[arg(long, value_name = "RECEIPT.json")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    seal: SealTo,
    #[command(flatten)]
    making: making::Flags,
}

/// Quantizes.
pub(crate) fn run(args: Args) -> Result<()> {
    let (recipients, work) = (args.seal.recipients()?, args.making.work);
    let model = args.model.open()?;
    // What is wrong with the request is said before anything takes long. Types depend on whether columns are known to differ.
    let mut types = quantize::pinned(&model, args.scheme(), &args.pin)?;
    let learns = args.imatrix.is_some() || args.text.is_some();
    let placeholder = if learns { Inputs::Importance(Arc::default()) } else { Inputs::Unknown };
    let plan = quantize::plan(&model, &args.params(&types, placeholder)).map_err(with_flag)?;
    let goal = args.automatic.goal(args.gate.max_kl).filter(|_| args.scheme.is_none());
    if goal.is_some() && args.method != "gptq" {
        return Err(Usage(format!("--method {} fits the weights to their types: name them with --type", args.method)).into());
    }
    if args.making.dry_run && goal.is_none() {
        return args.making.planned(&plan);
    }
    if !args.making.dry_run {
        absent(&args.output)?;
    }
    let receipt = args.receipt.as_deref().map(Unfinished::beside_nothing).transpose()?;

    let measurement = args.gate.prepare(&model, &args.model.identities, !recipients.is_empty())?;

    let Learning { inputs, learned, held_out, shown } = args.learn(&model, &types)?;
    let mut params = args.params(&types, inputs);
    if let Some(goal) = goal {
        let mixture = automatic::mixture(&model, &params, goal, &shown, work)?;
        types.extend(mixture.types);
        params.types.clone_from(&types);
    }
    let plan = quantize::plan(&model, &params)?;
    if args.making.dry_run {
        return args.making.planned(&plan);
    }
    let rounded = Rounded::with(&model, &params);
    let measure = |m: Measurement| m.of(&model, &rounded, &plan.summary, held_out, work);
    let loss = measurement.map(measure).transpose()?;
    let place = loss.as_ref().map_or_else(|| Ok(args.output.to_path_buf()), |loss| loss.place(&args.output))?;
    let output = Destination { path: &place, recipients: &recipients };
    let mut progress = args.making.progress("quantizing");
    let made = quantize::quantize(&model, output, &params, &mut |done, total| progress.update(done, total));
    let summary = made.map_err(with_flag)?;
    drop(progress);
    if let Some(file) = receipt {
        let types = types.iter().map(|(name, dtype)| (name.clone(), dtype.name())).collect();
        let parameters = Parameters { scheme: args.scheme().to_string(), types, requantize: args.requantize };
        let source = model.weights_digest()?;
        // A sealed result cannot be read back without a key of its recipients.
        let result = if recipients.is_empty() {
            coffer_store::open(&place, &[])?.weights_digest()?
        } else {
            Model { weights: Arc::new(rounded), ..model }.weights_digest()?
        };
        let mut receipt = Receipt::new(coffer_kernels::CONTRACT, summary.method, parameters, source, learned, result);
        receipt.lost = loss.as_ref().map(serde_json::to_value).transpose()?;
        file.finish_new(receipt.to_json().as_bytes())?;
    }
    if work.json {
        output::json(&Made { output: &place, summary: &summary, lost: loss.as_ref() })?;
    } else {
        args.making.made(&place, &summary)?;
        loss.iter().for_each(Loss::print);
    }
    loss.map_or(Ok(()), |loss| loss.verdict(&place))
}

/// What a method is given.
struct Learning {
    inputs: Inputs,
    learned: Option<Learned>,
    /// What of the text is left to measure on.
    held_out: Option<HeldOut>,
    /// A text that may be looked at to choose types.
    shown: HeldOut,
}

impl Args {
    /// The type that was named; where types are chosen, whatever has no choice.
    fn scheme(&self) -> Scheme {
        self.scheme.unwrap_or(Scheme::Q8_0)
    }

    fn params(&self, types: &BTreeMap<String, DType>, inputs: Inputs) -> QuantizeParams {
        QuantizeParams {
            scheme: self.scheme(),
            types: types.clone(),
            requantize: self.requantize,
            inputs,
            threads: self.making.threads(),
        }
    }

    fn learn(&self, model: &Model, types: &BTreeMap<String, DType>) -> Result<Learning> {
        if let Some(path) = &self.imatrix {
            let (inputs, learned) = learning::imatrix(path, model)?;
            return Ok(Learning { inputs, learned: Some(learned), held_out: None, shown: HeldOut::built_in() });
        }
        let Some(path) = &self.text else {
            return Ok(Learning { inputs: Inputs::Unknown, learned: None, held_out: None, shown: HeldOut::built_in() });
        };
        let text = Text::read(path, &self.model.identities)?;
        let (bytes, held_out) = self.gate.split(path, text.text());
        let (curvature, learned) = text.learn(bytes, self.cut.of(model), model, self.making.work)?;
        let placeholder = self.params(types, Inputs::Unknown);
        let inputs = learning::inputs(&self.method, curvature, model, &placeholder, self.making.work)?;
        let shown = HeldOut { name: path.display().to_string(), text: text.text()[..bytes].to_owned() };
        Ok(Learning { inputs, learned: Some(learned), held_out, shown })
    }
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
