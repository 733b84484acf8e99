//! `coffer convert`: Hugging Face directory <-> GGUF.

use crate::{
    exit::Usage,
    model_input::ModelArgs,
    output,
    progress::{Progress, Style},
    recipients::SealTo,
    remote::Output,
};
use anyhow::Result;
use coffer_checkpoint::DType;
use coffer_store::{Container, Destination, Target};

/// Write a model in the other container, weights, tokenizer and chat template. There and back is equal to the bit.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Container to write [default: the one that MODEL is not]
    #[arg(long, value_enum, value_name = "CONTAINER")]
    to: Option<To>,
    /// GGUF file or directory to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "OUT")]
    output: Output,
    /// Type of the weights [default: as they are; quantized blocks become F32 in a directory]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Float>,
    #[command(flatten)]
    seal: SealTo,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// A container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum To {
    /// A directory with config.json and safetensors
    Hf,
    /// One GGUF file
    Gguf,
}

/// A plain type of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Float {
    /// 32 bits
    F32,
    /// 16 bits, 5 of them exponent
    F16,
    /// 16 bits, 8 of them exponent
    Bf16,
}

#[derive(serde::Serialize)]
struct Converted {
    output: String,
    container: &'static str,
    weight_bytes: u64,
}

/// Converts.
pub(crate) fn run(args: Args) -> Result<()> {
    let recipients = args.seal.recipients()?;
    let model = args.model.open()?;
    let target = match (args.to, model.container) {
        (Some(To::Hf), _) | (None, Container::Gguf) => Target::HuggingFace,
        (Some(To::Gguf), _) | (None, Container::HuggingFace) => Target::Gguf,
    };
    if args.output.exists() {
        return Err(Usage(format!("{} exists; convert overwrites nothing", args.output.display())).into());
    }
    let dtype = args.dtype.map(|f| match f {
        Float::F32 => DType::F32,
        Float::F16 => DType::F16,
        Float::Bf16 => DType::BF16,
    });
    let mut progress = Progress::bytes(args.progress, "converting");
    let output = Destination { path: &args.output, recipients: &recipients, work: None };
    let weight_bytes = coffer_store::convert(&model, output, target, dtype, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    let container = if target == Target::Gguf { "GGUF" } else { "Hugging Face directory" };
    let done = Converted { output: args.output.display().to_string(), container, weight_bytes };
    if args.json {
        return output::json(&done);
    }
    outln!("{}: {container}, {}", done.output, output::bytes(done.weight_bytes));
    Ok(())
}
