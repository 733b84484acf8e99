//! `coffer quantize`: fewer bits per weight, as GGUF or for vLLM.

mod automatic;
mod part;

use crate::{
    commands::{
        making,
        outcome::{HeldOut, Job, Outcome, OutcomeFlags},
    },
    exit::Usage,
    learning::{self, Cut, Text},
    model_input::ModelArgs,
};
use anyhow::Result;
use automatic::Automatic;
use coffer_checkpoint::DType;
use coffer_compress::{
    CompressError,
    quantize::{self, Inputs, Pin, QuantizeParams, Scheme},
    shard::Part,
};
use coffer_evidence::{
    Recipe,
    receipt::{Learned, Parameters},
};
use coffer_seal::Recipient;
use coffer_store::Model;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// Write a model with fewer bits per weight, as a GGUF file or for vLLM. The bytes are the same on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Type to write: Q4_K_M and the other names of GGUF, or W4A16, W8A8, FP8 for vLLM; docs/compress.md says what each means. Instead of it a goal: --target-size, --target-bpw or --max-kl
    #[arg(long = "type", value_name = "TYPE", required_unless_present_any = ["target_size", "target_bpw", "max_kl"])]
    scheme: Option<Scheme>,
    #[command(flatten)]
    automatic: Automatic,
    /// Give every matrix in whose name PATTERN (a regular expression) is found this type; of several the first decides
    #[arg(long, value_name = "PATTERN=TYPE")]
    pin: Vec<Pin>,
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
    /// Write only part I, counted from 0, of N, into OUT.shard-I-of-N; `coffer gather` puts the parts of several processes together
    #[arg(
        long,
        value_name = "I/N",
        conflicts_with_all = ["target_size", "target_bpw", "eval_text", "policy", "max_kl", "min_same_top", "receipt"]
    )]
    shard: Option<Part>,
    #[command(flatten)]
    outcome: OutcomeFlags,
}

/// Quantizes.
pub(crate) fn run(args: Args) -> Result<()> {
    let OutcomeFlags { making, gate, .. } = &args.outcome;
    let model = args.model.open()?;
    // What is wrong with the request is said before anything takes long. Types depend on whether columns are known to differ.
    let mut types = quantize::pinned(&model, args.scheme(), &args.pin)?;
    let learns = args.imatrix.is_some() || args.text.is_some();
    let placeholder = if learns { Inputs::Importance(Arc::default()) } else { Inputs::Unknown };
    let plan = quantize::plan(&model, &args.params(&types, placeholder)).map_err(with_flag)?;
    let goal = args.automatic.goal(gate.max_kl).filter(|_| args.scheme.is_none());
    if goal.is_some() && args.method != "gptq" {
        return Err(Usage(format!("--method {} fits the weights to their types: name them with --type", args.method)).into());
    }
    if making.dry_run && goal.is_none() {
        return making.planned(&plan);
    }
    let target = match args.shard {
        None => Target::Whole(Box::new(args.outcome.prepare(&model, &args.model.identities)?)),
        Some(part) => Target::Part(part, args.outcome.seal.recipients()?),
    };

    let Learning { inputs, learned, held_out, shown } = args.learn(&model, &types)?;
    let mut params = args.params(&types, inputs);
    if let Some(goal) = goal {
        let mixture = automatic::mixture(&model, &params, goal, &shown, making.work)?;
        types.extend(mixture.types);
        params.types.clone_from(&types);
    }
    let plan = quantize::plan(&model, &params)?;
    if making.dry_run {
        return making.planned(&plan);
    }
    let recipe = args.recipe(plan.summary.method, &types, learned);
    let outcome = match target {
        Target::Whole(outcome) => outcome,
        Target::Part(part, recipients) => {
            let keys = (args.model.identities.load()?, &*recipients);
            return part::write((&model, &params), (part, recipe), &args.outcome.output, keys, *making);
        }
    };
    outcome.of(
        "quantizing",
        Job {
            work: making::work_id(&model, &recipe),
            recipe,
            source: None,
            held_out,
            make: Box::new(move |model, out, progress| quantize::make(model, out, &params, progress)),
            model,
        },
    )
}

/// What is written, and what that needs.
enum Target<'a> {
    Whole(Box<Outcome<'a>>),
    Part(Part, Vec<Recipient>),
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
            threads: self.outcome.making.threads(),
        }
    }

    fn recipe(&self, method: &str, types: &BTreeMap<String, DType>, learned: Option<Learned>) -> Recipe {
        let types = types.iter().map(|(name, dtype)| (name.clone(), dtype.name())).collect();
        let parameters = Parameters { scheme: self.scheme().to_string(), types, requantize: self.requantize };
        Recipe { contract: coffer_kernels::CONTRACT.to_owned(), method: method.to_owned(), parameters, learned }
    }

    fn learn(&self, model: &Model, types: &BTreeMap<String, DType>) -> Result<Learning> {
        let of = |inputs, learned| Learning { inputs, learned, held_out: None, shown: HeldOut::built_in() };
        if let Some(path) = &self.imatrix {
            let (inputs, learned) = learning::imatrix(path, model)?;
            return Ok(of(inputs, Some(learned)));
        }
        let Some(path) = &self.text else { return Ok(of(Inputs::Unknown, None)) };
        let text = Text::read(path, &self.model.identities)?;
        let (bytes, held_out) = self.outcome.gate.split(path, text.text());
        let placeholder = self.params(types, Inputs::Unknown);
        let (calibration, learned) = text.lesson(bytes, self.cut.of(model), model)?;
        let inputs = learning::inputs(&self.method, &calibration, model, &placeholder, self.outcome.making.work)?;
        let shown = HeldOut { name: path.display().to_string(), text: text.text()[..bytes].to_owned() };
        Ok(Learning { inputs, learned: Some(learned), held_out, shown })
    }
}

/// Names the flag where the library names what it allows.
fn with_flag(error: CompressError) -> anyhow::Error {
    match error {
        CompressError::Requantize { .. } => anyhow::anyhow!("{error} (--requantize)"),
        other => other.into(),
    }
}
