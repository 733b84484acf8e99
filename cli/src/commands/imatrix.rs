//! `coffer imatrix`: how much each column of each matrix counts for a text.

use crate::{
    commands::quantize::learning::file_name,
    exit::Usage,
    model_input::{Compute, ModelArgs},
    output,
    progress::{Progress, Style},
    unfinished::Unfinished,
};
use anyhow::Result;
use coffer_compress::{Calibration, Importance};
use coffer_store::Model;
use std::path::PathBuf;

/// Measure how much each column of each matrix counts for a text: the mean square of what meets it. For `quantize --imatrix`, and for
/// llama-quantize, which reads the same file. The same bytes on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    /// Text like that which the model will see; plain or sealed
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// GGUF file to write; must not exist
    #[arg(short, long, value_name = "IMATRIX.gguf")]
    output: PathBuf,
    #[command(flatten)]
    cut: Cut,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// How a text is cut.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Tokens of the text to use at most
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    max_tokens: usize,
    /// Tokens of a window; each is run on its own [default: 512, or the model's context if that is less]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
}

impl Cut {
    /// Tokens of a window, and most tokens, for a model.
    pub(crate) fn of(self, model: &Model) -> (usize, usize) {
        (self.window.unwrap_or(512).min(model.config.context), self.max_tokens)
    }
}

/// Runs the text and writes the file.
pub(crate) fn run(args: Args) -> Result<()> {
    anyhow::ensure!(!args.output.exists(), "{}: exists already; nothing is overwritten", args.output.display());
    let file = Unfinished::beside(&args.output)?;
    let model = args.model.open()?;
    let text = args.model.identities.read_text(&args.text)?;
    let none = || Usage("the model has no tokenizer, so no text can be run through it".to_owned());
    let tokenizer = model.tokenizer.as_ref().ok_or_else(none)?;
    let (window, max_tokens) = args.cut.of(&model);
    let calibration = Calibration::new(&file_name(&args.text), &text, tokenizer, window, max_tokens)?;
    let engine = args.compute.load(&model, args.progress)?;
    let mut progress = Progress::steps(args.progress, "running the text");
    let importance = Importance::of(&engine, &calibration, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    let mut bytes = Vec::new();
    importance.write(&mut bytes, &model.config)?;
    file.finish_new(&bytes)?;
    let (windows, tokens, matrices) = (calibration.windows().len(), calibration.tokens(), importance.weights().count());
    if args.json {
        return output::json(&serde_json::json!({
            "imatrix": args.output,
            "text": calibration.name,
            "tokens": tokens,
            "windows": windows,
            "matrices": matrices,
        }));
    }
    outln!("{}: {matrices} matrices, from {tokens} tokens of {} in {windows} windows", args.output.display(), calibration.name);
    Ok(())
}
