//! `coffer diff`: which tensors of two models differ, by how much, and what that does to the answers.

use super::eval::Figures;
use crate::{
    exit::Usage,
    model_input::ModelArgs,
    output::{self, Table},
    work::Work,
};
use anyhow::Result;
use coffer_assess::difference::{TensorDifference, differences};
use coffer_store::Model;
use std::{path::PathBuf, sync::Arc};

/// Compare two models: which tensors differ and by how much, whatever containers they are in, and with --text what that does to the answers.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Model to compare it with
    #[arg(value_name = "OTHER")]
    other: PathBuf,
    /// Text on which the other's answers are compared with the model's; plain or sealed
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of it to use at most
    #[arg(long, value_name = "N", default_value_t = 2048)]
    max_tokens: usize,
    #[command(flatten)]
    work: Work,
}

/// For programs.
#[derive(serde::Serialize)]
struct Found {
    /// Whether all tensors have the same numbers and the models are of one shape.
    equal: bool,
    /// Whether the configurations say the same of what is computed.
    same_config: bool,
    tensors: Vec<TensorDifference>,
    answers: Option<Figures>,
}

/// Compares.
pub(crate) fn run(args: Args) -> Result<()> {
    let model = args.model.open()?;
    // Under the same demands as the model.
    let files = args.model.signed.demanded.files(&args.other, args.model.identities.load_for(&args.other)?)?;
    let other = coffer_store::open_files(&args.other, files)?;
    let mut progress = args.work.progress("comparing");
    let tensors = differences(&*model.weights, &*other.weights, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    let same_config = model.config == other.config;
    let answers = args.text.is_some().then(|| args.answers(&model, &other)).transpose()?;
    let equal = same_config && tensors.iter().all(TensorDifference::is_none);
    let found = Found { equal, same_config, tensors, answers };
    if args.work.json { output::json(&found) } else { found.print(&args) }
}

impl Args {
    fn answers(&self, model: &Model, other: &Model) -> Result<Figures> {
        let none = || Usage(format!("{}: no tokenizer, so no text can be run", self.model.path.display()));
        let tokenizer = model.tokenizer.as_ref().ok_or_else(none)?;
        let text = self.text.as_ref().map_or_else(|| Ok(String::new()), |path| self.model.identities.read_text(path))?;
        let mut tokens = tokenizer.encode(&text, true)?;
        tokens.truncate(self.max_tokens);
        let fidelity = self.work.compare(model, (&other.config, Arc::clone(&other.weights)), &tokens)?;
        Ok(Figures::from(&fidelity))
    }
}

impl Found {
    fn print(&self, args: &Args) -> Result<()> {
        let (first, second) = (args.model.path.display(), args.other.display());
        let mut table = Table::new(&["tensor", "type", "other's", ">changed", ">largest", ">relative"]);
        let missing = || "-".to_owned();
        for t in self.tensors.iter().filter(|t| !t.is_none()) {
            let [changed, largest, relative] = match t.values {
                Some(v) => [format!("{:.1} %", v.changed * 100.0), format!("{:.3e}", v.largest), format!("{:.5}", v.relative)],
                None => [missing(), missing(), missing()],
            };
            let types = [&t.first, &t.second].map(|t| t.clone().unwrap_or_else(missing));
            let [a, b] = types;
            table.row([t.name.clone(), a, b, changed, largest, relative]);
        }
        let equal = self.tensors.iter().filter(|t| t.is_none()).count();
        if equal < self.tensors.len() {
            out!("{table}");
        }
        if !self.same_config {
            outln!("the configurations differ: coffer inspect shows both");
        }
        outln!("{equal} of {} tensors of {first} and {second} have the same numbers", self.tensors.len());
        if let Some(figures) = &self.answers {
            outln!("{second} beside {first}:");
            figures.print();
        }
        Ok(())
    }
}
