//! `coffer imatrix`: how much each column of each matrix counts for a text.

use crate::{
    learning::{Cut, Text},
    model_input::{Compute, ModelArgs},
    output,
    progress::{Progress, Style},
    unfinished::Unfinished,
};
use anyhow::Result;
use coffer_compress::Importance;
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

/// Runs the text and writes the file.
pub(crate) fn run(args: Args) -> Result<()> {
    let file = Unfinished::beside_nothing(&args.output)?;
    let model = args.model.open()?;
    let text = Text::read(&args.text, &args.model.identities)?;
    let calibration = text.calibration(text.text().len(), args.cut.of(&model), &model)?;
    let mut progress = Progress::steps(args.progress, "running the text");
    let importance =
        Importance::of(&model, args.compute.options()?, &calibration, &mut |done, total| progress.update(done, total))?;
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
