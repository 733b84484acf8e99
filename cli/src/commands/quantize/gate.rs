//! What quantizing loses is measured before anything gets the name that was asked for.

use crate::{
    commands::{assess, eval::Figures},
    exit::{Refused, Usage},
    model_input::{Identities, read_text},
    unfinished::absent,
    work::Work,
};
use anyhow::{Context, Result, ensure};
use coffer_assess::{
    Policy,
    fidelity::{self, Fidelity, Loaded, Windows},
    figures::{Measured, Size},
};
use coffer_checkpoint::TensorSource;
use coffer_compress::quantize::Rounded;
use coffer_store::Model;
use std::path::{Path, PathBuf};

/// Used where nobody names a text.
const BUILT_IN: (&str, &str) = ("a built-in text", include_str!("../../../../assets/text/holdout.txt"));
/// Of a text to learn from, what is kept to measure on.
const HELD_OUT: f64 = 0.2;

/// Flags of the measurement and of what it must find.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Gate {
    /// Do not measure what is lost
    #[arg(long, conflicts_with_all = ["eval_text", "policy", "max_kl", "min_same_top"])]
    no_eval: bool,
    /// Text to measure the loss on, plain or sealed [default: the last fifth of --text, which is then not learned from; or a built-in text]
    #[arg(long, value_name = "FILE")]
    eval_text: Option<PathBuf>,
    /// Tokens of it to use at most
    #[arg(long, value_name = "N", default_value_t = 2048)]
    eval_tokens: usize,
    /// Refuse a result whose mean KL divergence from the source is larger (nats)
    #[arg(long, value_name = "KL")]
    max_kl: Option<f64>,
    /// Refuse a result that has the source's most likely token less often (0 to 1)
    #[arg(long, value_name = "SHARE")]
    min_same_top: Option<f64>,
    /// Refuse a result that does not meet this policy (docs/measures.md)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// A text that is measured on.
pub(super) struct HeldOut {
    pub(super) name: String,
    pub(super) text: String,
}

/// What was found.
#[derive(serde::Serialize)]
pub(super) struct Loss {
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
    pub(super) fn split(&self, path: &Path, text: &str) -> (usize, Option<HeldOut>) {
        if self.no_eval || self.eval_text.is_some() {
            return (text.len(), None);
        }
        let wanted = (text.len() as f64 * (1.0 - HELD_OUT)) as usize;
        let at = text[..text.floor_char_boundary(wanted)].rfind(char::is_whitespace).unwrap_or(0);
        (at, Some(HeldOut { name: format!("the last fifth of {}", path.display()), text: text[at..].to_owned() }))
    }

    /// Measures what `rounded` loses, and holds it against the limits; `None` with `--no-eval`.
    pub(super) fn measure(
        &self,
        model: &Model,
        rounded: &Rounded,
        held: Option<HeldOut>,
        identities: &Identities,
        work: Work,
    ) -> Result<Option<Loss>> {
        if self.no_eval {
            return Ok(None);
        }
        let policy = self.policy()?;
        let held = match (&self.eval_text, held) {
            (Some(path), _) => HeldOut { name: path.display().to_string(), text: identities.read_text(path)? },
            (None, Some(held)) => held,
            (None, None) => HeldOut { name: BUILT_IN.0.to_owned(), text: BUILT_IN.1.to_owned() },
        };
        let none =
            || Usage("the model has no tokenizer, so what is lost cannot be measured; --no-eval goes on without".to_owned());
        let mut tokens = model.tokenizer.as_ref().ok_or_else(none)?.encode(&held.text, true)?;
        tokens.truncate(self.eval_tokens);
        let source = work.load("loading the source", &model.config, &*model.weights)?;
        let result = work.load("rounding", &model.config, rounded)?;
        let windows = Windows::new(&tokens, source.context().min(512), 0, source.context())
            .with_context(|| format!("{}: what is lost cannot be measured; --no-eval goes on without", held.name))?;
        let mut progress = work.steps("measuring the loss");
        let (_, mut beside) = fidelity::compare(
            Loaded { name: "the source", engine: &source },
            &[Loaded { name: "the result", engine: &result }],
            &windows,
            &mut |done, total| progress.update(done, total),
        )?;
        let fidelity = beside.remove(0);
        let figures = Figures::from(&fidelity);
        let refused = policy.map_or_else(Vec::new, |policy| judge(&policy, rounded, fidelity));
        Ok(Some(Loss { text: held.name, figures, refused }))
    }

    /// All limits together.
    fn policy(&self) -> Result<Option<Policy>> {
        let mut text = self.policy.as_deref().map(read_text).transpose()?.unwrap_or_default();
        for (key, limit) in [("max_kl_mean", self.max_kl), ("min_same_top", self.min_same_top)] {
            if let Some(limit) = limit {
                ensure!(!text.contains(key), Usage(format!("{key} is limited by a flag and by the policy; leave one out")));
                // Of a key at the end no table of the file takes hold: policies have none.
                text += &format!("\n{key} = {limit:?}\n");
            }
        }
        let name = self.policy.as_ref().map_or_else(|| "the limits".to_owned(), |p| p.display().to_string());
        Ok(if text.is_empty() { None } else { Some(Policy::parse(&text, &name)?) })
    }
}

/// Reasons against it.
fn judge(policy: &Policy, rounded: &Rounded, fidelity: Fidelity) -> Vec<String> {
    let (mut bytes, mut parameters) = (0, 0);
    for (_, tensor) in rounded.index().iter() {
        bytes += tensor.bytes().unwrap_or(0);
        parameters += tensor.elements().unwrap_or(0);
    }
    let size = Some(Size { bytes, parameters, sealed: false });
    let measured = Measured { fidelity: Some(fidelity), size, ..Measured::default() };
    policy.judge(&measured).reasons.iter().map(assess::reason).collect()
}

impl Loss {
    /// Where the result goes: a refused one under a name that says so.
    pub(super) fn place(&self, wanted: &Path) -> Result<PathBuf> {
        if self.refused.is_empty() {
            return Ok(wanted.to_owned());
        }
        let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
        let name = match wanted.extension() {
            Some(extension) => format!("{stem}.refused.{}", extension.to_string_lossy()),
            None => format!("{stem}.refused"),
        };
        let place = wanted.with_file_name(name);
        absent(&place)?;
        Ok(place)
    }

    /// The figures, for people.
    pub(super) fn print(&self) {
        outln!("what was lost, on {}:", self.text);
        self.figures.print();
    }

    /// An error if the result, which lies at `place`, is refused.
    pub(super) fn verdict(&self, place: &Path) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        Err(Refused(format!("{}; the result is kept as {}", self.refused.join("; "), place.display())).into())
    }
}
