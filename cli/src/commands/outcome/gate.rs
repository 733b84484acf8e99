//! What quantizing loses is measured before the result gets the name that was asked for.

use crate::{
    commands::{assess, eval::Figures},
    exit::{Refused, Usage},
    model_input::{Identities, read_text},
    work::{self, Work},
};
use anyhow::{Context, Result, ensure};
use coffer_assess::{
    Policy,
    figures::{Measured, Size},
};
use coffer_compress::Summary;
use coffer_store::Model;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Used where nobody names a text.
const BUILT_IN: (&str, &str) = ("a built-in text", include_str!("../../../../assets/text/holdout.txt"));
/// Of a text to learn from, what is kept to measure on.
const HELD_OUT: f64 = 0.2;

/// Flags of the measurement and of what it must find.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Gate {
    /// Do not measure what is lost
    #[arg(long, conflicts_with_all = ["eval_text", "policy", "max_kl", "min_same_top"])]
    no_eval: bool,
    /// Text to measure the loss on, plain or sealed [default: the last fifth of a text that is to be learned from, which then is not; or a built-in text]
    #[arg(long, value_name = "FILE")]
    eval_text: Option<PathBuf>,
    /// Tokens of it to use at most
    #[arg(long, value_name = "N", default_value_t = 2048)]
    eval_tokens: usize,
    /// Refuse a result whose mean KL divergence from the source is larger (nats)
    #[arg(long, value_name = "KL")]
    pub(crate) max_kl: Option<f64>,
    /// Refuse a result that has the source's most likely token less often (0 to 1)
    #[arg(long, value_name = "SHARE")]
    min_same_top: Option<f64>,
    /// Refuse a result that does not meet this policy (docs/measures.md)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// A text that is measured on.
pub(crate) struct HeldOut {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl HeldOut {
    /// What there is where nobody names a text.
    pub(crate) fn built_in() -> Self {
        Self { name: BUILT_IN.0.to_owned(), text: BUILT_IN.1.to_owned() }
    }
}

/// What was found.
#[derive(serde::Serialize)]
pub(crate) struct Loss {
    /// Name of the text.
    text: String,
    #[serde(flatten)]
    figures: Figures,
    /// Why the result is refused; empty if it is not.
    refused: Vec<String>,
}

impl Gate {
    /// Splits `text`, which was read from `path` to learn from: so many bytes are learned from, the rest is measured on, unless
    /// another text is.
    pub(crate) fn split(&self, path: &Path, text: &str) -> (usize, Option<HeldOut>) {
        if self.no_eval || self.eval_text.is_some() {
            return (text.len(), None);
        }
        let wanted = (text.len() as f64 * (1.0 - HELD_OUT)) as usize;
        let at = text[..text.floor_char_boundary(wanted)].rfind(char::is_whitespace).unwrap_or(0);
        (at, Some(HeldOut { name: format!("the last fifth of {}", path.display()), text: text[at..].to_owned() }))
    }

    /// Reads what the measurement needs, so that what is wrong with it is said before anything takes long; `None` with `--no-eval`.
    pub(crate) fn prepare(&self, model: &Model, identities: &Identities, sealed: bool) -> Result<Option<Measurement>> {
        if self.no_eval {
            return Ok(None);
        }
        let none = "the model has no tokenizer, so what is lost cannot be measured; --no-eval goes on without";
        ensure!(model.tokenizer.is_some(), Usage(none.to_owned()));
        let read = |path: &PathBuf| -> Result<HeldOut> {
            Ok(HeldOut { name: path.display().to_string(), text: identities.read_text(path)? })
        };
        let (policy, text) = (self.policy()?, self.eval_text.as_ref().map(read).transpose()?);
        Ok(Some(Measurement { policy, text, most: self.eval_tokens, sealed }))
    }

    /// All limits together.
    fn policy(&self) -> Result<Option<Policy>> {
        let read = |path: &PathBuf| -> Result<Policy> { Ok(Policy::parse(&read_text(path)?, &path.display().to_string())?) };
        let file = self.policy.as_ref().map(read).transpose()?;
        let flags = [("max_kl_mean", self.max_kl), ("min_same_top", self.min_same_top)];
        let lines: String = flags.iter().filter_map(|(key, limit)| Some(format!("{key} = {:?}\n", (*limit)?))).collect();
        let flags = (!lines.is_empty()).then(|| Policy::parse(&lines, "the limits")).transpose()?;
        Ok(match (file, flags) {
            (Some(file), Some(flags)) => Some(file.and(flags).map_err(|e| Usage(e.to_string()))?),
            (file, flags) => file.or(flags),
        })
    }
}

/// What is wanted of a measurement.
pub(crate) struct Measurement {
    policy: Option<Policy>,
    /// The text that was named for it.
    text: Option<HeldOut>,
    /// Tokens to use at most.
    most: usize,
    /// Whether the result will be sealed.
    sealed: bool,
}

impl Measurement {
    /// Cuts the text for `model`; `held` if no other was named.
    pub(crate) fn on(self, model: &Model, held: Option<HeldOut>) -> Result<Prepared> {
        let HeldOut { name, text } = self.text.or(held).unwrap_or_else(HeldOut::built_in);
        let tokens = model.tokenizer.as_ref().map_or_else(|| Ok(Vec::new()), |t| t.encode(&text, true));
        let mut tokens = tokens.with_context(|| name.clone())?;
        tokens.truncate(self.most);
        let beforehand = work::windows(model, &tokens);
        beforehand.with_context(|| format!("{name}: what is lost cannot be measured; --no-eval goes on without"))?;
        Ok(Prepared { policy: self.policy, sealed: self.sealed, name, tokens })
    }
}

/// A measurement that can begin.
pub(crate) struct Prepared {
    policy: Option<Policy>,
    sealed: bool,
    /// Name of the text.
    name: String,
    tokens: Vec<u32>,
}

impl Prepared {
    /// Measures what `made` of `model`, of which `summary` tells, has lost, and holds it against the limits.
    pub(crate) fn of(&self, model: &Model, made: &Model, summary: &Summary, work: Work) -> Result<Loss> {
        let fidelity = work.compare(model, (&made.config, Arc::clone(&made.weights)), &self.tokens)?;
        let figures = Figures::from(&fidelity);
        let size = Some(Size { bytes: summary.bytes_out, parameters: summary.weights, sealed: self.sealed });
        let measured = Measured { fidelity: Some(fidelity), size, ..Measured::default() };
        let reasons = self.policy.as_ref().map_or_else(Vec::new, |policy| policy.judge(&measured).reasons);
        Ok(Loss { text: self.name.clone(), figures, refused: reasons.iter().map(assess::reason).collect() })
    }
}

impl Loss {
    /// Where the result goes: a refused one under a name that says so.
    pub(crate) fn place(&self, wanted: &Path) -> PathBuf {
        if self.refused.is_empty() {
            return wanted.to_owned();
        }
        let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
        wanted.with_file_name(match wanted.extension() {
            Some(extension) => format!("{stem}.refused.{}", extension.to_string_lossy()),
            None => format!("{stem}.refused"),
        })
    }

    /// The figures, for people.
    pub(crate) fn print(&self) {
        outln!("what was lost, on {}:", self.text);
        self.figures.print();
    }

    /// An error if the result, which lies at `place`, is refused.
    pub(crate) fn verdict(&self, place: &Path) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        Err(Refused(format!("{}; the result is kept as {}", self.refused.join("; "), place.display())).into())
    }
}
