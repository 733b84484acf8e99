//! The whole assessment: a reference, variants, what was measured, how, and what the policy says.

use crate::{
    Policy, Verdict,
    error::{AssessError, Named},
    exhibits::Exhibits,
    fidelity::{self, Loaded, Windows},
    figures::{Measured, Scan, Size},
    pairs::{self, Pair, Pairs},
    pareto::{self, Costs},
    portability::{self, PortabilityOptions},
    resources::Resources,
};
use coffer_engine::{Engine, LoadOptions};
use coffer_evidence::WeightsDigest;
use coffer_model::Tokenizer;
use coffer_store::Model;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A model to be assessed.
pub struct Subject<'a> {
    /// Name in the report.
    pub name: String,
    /// How it was made, in a few words.
    pub made: String,
    /// The opened model.
    pub model: &'a Model,
    /// Speed and memory, measured in a process of its own.
    pub resources: Option<Resources>,
    /// What the scanner found in its files.
    pub scan: Option<Scan>,
}

/// A text under a name.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Name in the report, e.g. the file's.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
}

/// How to assess.
pub struct Options<'a> {
    /// Held-out text.
    pub text: Text<'a>,
    /// Tokens of it to measure at most.
    pub max_tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens at the start of each window that are not scored.
    pub skip: usize,
    /// Minimal pairs as JSON Lines.
    pub pairs: Option<Text<'a>>,
    /// Which ways of running to compare.
    pub portability: Option<PortabilityOptions>,
    /// Instruction set and threads of the measurement.
    pub load: LoadOptions,
    /// Bytes of weights to hold in memory at once; the reference and one variant are held whatever they need.
    pub resident_bytes: u64,
    /// Limits on the figures.
    pub policy: Option<Policy>,
}

impl<'a> Options<'a> {
    /// Windows of 512 tokens over at most 20,000 tokens of `text`, no pairs, portability of 64 tokens, 4 GB of weights at once.
    pub fn new(text: Text<'a>, load: LoadOptions) -> Self {
        Self {
            text,
            max_tokens: 20_000,
            window: 512,
            skip: 0,
            pairs: None,
            portability: Some(PortabilityOptions::default()),
            load,
            resident_bytes: 4_000_000_000,
            policy: None,
        }
    }
}

/// What is being done, for a progress bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// `load`, `fidelity`, `pairs`, `portability`, `digest`.
    pub stage: &'static str,
    /// The model, or how many are measured beside each other.
    pub subject: &'a str,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// How it was measured.
    pub method: Method,
    /// The reference, then the variants in the order in which they were given.
    pub models: Vec<Assessed>,
    /// The policy that judged them.
    pub policy: Option<Policy>,
    /// What was shown beside the measurements.
    pub exhibits: Exhibits,
}

impl Assessment {
    /// The model that the others were measured against.
    pub fn reference(&self) -> Option<&Assessed> {
        self.models.first()
    }
    /// The others.
    pub fn variants(&self) -> &[Assessed] {
        self.models.get(1..).unwrap_or_default()
    }
    /// The smallest variant that the policy accepts; the closest to the reference among those of one size.
    pub fn smallest_accepted(&self) -> Option<&Assessed> {
        let accepted = self.variants().iter().filter(|v| v.verdict.as_ref().is_some_and(Verdict::accepted));
        accepted
            .filter_map(|v| Some((costs(&v.measured)?, v)))
            .min_by(|(a, _), (b, _)| a.bytes.cmp(&b.bytes).then(a.kl_mean.total_cmp(&b.kl_mean)))
            .map(|(_, v)| v)
    }
}

/// How it was measured.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Method {
    /// Version of this software.
    pub coffer: String,
    /// Version of the numeric contract.
    pub contract: String,
    /// How keys and values are kept.
    pub kv_format: String,
    /// The machine's processor, as far as it says.
    pub machine: String,
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Name of the held-out text.
    pub text: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens of the text that were run.
    pub tokens: usize,
    /// Tokens that were scored.
    pub scored: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens at the start of each window that were not scored.
    pub skip: usize,
    /// Name of the file of minimal pairs.
    pub pairs: Option<String>,
    /// SHA-256 of that file.
    pub pairs_sha256: Option<String>,
}

/// One model and what was found.
#[derive(Clone, Debug)]
pub struct Assessed {
    /// Name.
    pub name: String,
    /// How it was made.
    pub made: String,
    /// Digest of the canonical weights.
    pub weights: WeightsDigest,
    /// Types of its weights with the bytes stored in each, largest first.
    pub types: Vec<(String, u64)>,
    /// The measurements.
    pub measured: Measured,
    /// Whether no other model is both smaller and closer to the reference.
    pub on_front: bool,
    /// What the policy says; `None` for the reference and without a policy.
    pub verdict: Option<Verdict>,
}

/// Measures `reference` and `variants`, and judges the variants.
///
/// # Errors
/// A model cannot be loaded or run, has no tokenizer or another one than the reference, or a text is malformed.
pub fn assess(
    reference: Subject<'_>,
    variants: Vec<Subject<'_>>,
    options: &Options<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Assessment, AssessError> {
    let material = Material::new(&reference, &variants, options)?;
    let windows = material.windows(&reference, options)?;
    let method = Method::new(options, &material, &windows);
    let mut measured = measure_quality(&reference, &variants, &material, &windows, options, progress)?;
    let mut models = Vec::with_capacity(1 + variants.len());
    for (i, subject) in std::iter::once(reference).chain(variants).enumerate() {
        let quality = std::mem::take(&mut measured[i]);
        models.push(describe(subject, quality, &material, options, progress)?);
    }
    mark_front(&mut models);
    if let Some(policy) = &options.policy {
        models.iter_mut().skip(1).for_each(|v| v.verdict = Some(policy.judge(&v.measured)));
    }
    Ok(Assessment { method, models, policy: options.policy.clone(), exhibits: Exhibits::default() })
}

/// What is run through the models.
struct Material<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    pairs: Vec<Pair>,
}

impl<'a> Material<'a> {
    fn new(reference: &Subject<'a>, variants: &[Subject<'_>], options: &Options<'_>) -> Result<Self, AssessError> {
        let none = || AssessError::NoTokenizer { model: reference.name.clone() };
        let tokenizer = reference.model.tokenizer.as_ref().ok_or_else(none)?;
        let mut tokens = tokenizer.encode(options.text.text, true).of(&reference.name)?;
        for variant in variants {
            let Some(other) = &variant.model.tokenizer else { continue };
            let there = other.encode(options.text.text, true).of(&variant.name)?;
            if let Some(at) = first_difference(&tokens, &there) {
                let (reference, variant) = (reference.name.clone(), variant.name.clone());
                return Err(AssessError::TokenizersDiffer { reference, variant, at });
            }
        }
        tokens.truncate(options.max_tokens);
        let pairs = options.pairs.map_or(Ok(Vec::new()), |p| pairs::parse(p.text, p.name))?;
        Ok(Self { tokenizer, tokens, pairs })
    }

    fn windows(&self, reference: &Subject<'_>, options: &Options<'_>) -> Result<Windows<'_>, AssessError> {
        Windows::new(&self.tokens, options.window, options.skip, reference.model.config.context)
    }
}

impl Method {
    fn new(options: &Options<'_>, material: &Material<'_>, windows: &Windows<'_>) -> Self {
        Self {
            coffer: env!("CARGO_PKG_VERSION").to_owned(),
            contract: coffer_kernels::CONTRACT.to_owned(),
            kv_format: options.load.kv_format.to_string(),
            machine: machine(),
            isa: options.load.isa.name().to_owned(),
            threads: options.load.threads,
            text: options.text.name.to_owned(),
            text_sha256: sha256(options.text.text),
            tokens: material.tokens.len(),
            scored: windows.scored(),
            window: options.window,
            skip: options.skip,
            pairs: options.pairs.map(|p| p.name.to_owned()),
            pairs_sha256: options.pairs.map(|p| sha256(p.text)),
        }
    }
}

/// Fidelity and pairs of the reference and then of each variant, as many models in memory at once as fit.
fn measure_quality(
    reference: &Subject<'_>,
    variants: &[Subject<'_>],
    material: &Material<'_>,
    windows: &Windows<'_>,
    options: &Options<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Measured>, AssessError> {
    let base = load(reference, options.load, progress)?;
    let base = Loaded { name: &reference.name, engine: &base };
    let answers = |model: Loaded<'_>, progress: &mut dyn FnMut(Progress<'_>)| {
        progress(Progress { stage: "pairs", subject: model.name, done: 0, total: material.pairs.len() as u64 });
        pairs::answers(model, material.tokenizer, &material.pairs)
    };
    let right = answers(base, progress)?;
    let counted = |answers: &[bool], reference: Option<&[bool]>| (!answers.is_empty()).then(|| Pairs::count(answers, reference));
    let mut measured = vec![Measured { pairs: counted(&right, None), ..Measured::default() }];
    for group in groups(variants, reference.model.weight_bytes, options.resident_bytes) {
        let engines = group.iter().map(|v| load(v, options.load, progress)).collect::<Result<Vec<_>, _>>()?;
        let loaded: Vec<_> = group.iter().zip(&engines).map(|(v, engine)| Loaded { name: &v.name, engine }).collect();
        let subject = format!("{} variants", group.len());
        let mut step = |done, total| progress(Progress { stage: "fidelity", subject: &subject, done, total });
        let (alone, beside) = fidelity::compare(base, &loaded, windows, &mut step)?;
        measured[0].fidelity = Some(alone);
        for (variant, fidelity) in loaded.iter().zip(beside) {
            let pairs = counted(&answers(*variant, progress)?, Some(&right));
            measured.push(Measured { fidelity: Some(fidelity), pairs, ..Measured::default() });
        }
    }
    Ok(measured)
}

/// Cuts the variants into groups that fit `budget` bytes beside the reference; at least one group, possibly empty, and
/// at least one variant in each where there are any.
fn groups<'v, 'm>(variants: &'v [Subject<'m>], reference: u64, budget: u64) -> Vec<&'v [Subject<'m>]> {
    let room = budget.saturating_sub(reference);
    let (mut groups, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (i, variant) in variants.iter().enumerate() {
        if i > start && bytes.saturating_add(variant.model.weight_bytes) > room {
            groups.push(&variants[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(variant.model.weight_bytes);
    }
    groups.push(&variants[start..]);
    groups
}

fn load(subject: &Subject<'_>, options: LoadOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Engine, AssessError> {
    let mut step = |done, total| progress(Progress { stage: "load", subject: &subject.name, done, total });
    Engine::load(&subject.model.config, &*subject.model.weights, options, &mut step).of(&subject.name)
}

/// Adds to the quality of a model what it is and how portable.
fn describe(
    subject: Subject<'_>,
    quality: Measured,
    material: &Material<'_>,
    options: &Options<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Assessed, AssessError> {
    let model = subject.model;
    let mut at = |stage| progress(Progress { stage, subject: &subject.name, done: 0, total: 1 });
    at("portability");
    let check = |o| portability::check(&subject.name, model, &material.tokens, options.load.kv_format, o);
    let portability = options.portability.as_ref().map(check).transpose()?;
    at("digest");
    let weights = model.weights_digest().of(&subject.name)?;
    let parameters = model.weights.index().iter().filter_map(|(_, t)| t.elements()).sum();
    let size = Some(Size { bytes: model.weight_bytes, parameters, sealed: model.sealed });
    let measured = Measured { size, resources: subject.resources, portability, scan: subject.scan, ..quality };
    Ok(Assessed {
        name: subject.name,
        made: subject.made,
        weights,
        types: types(model),
        measured,
        on_front: false,
        verdict: None,
    })
}

fn types(model: &Model) -> Vec<(String, u64)> {
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for (_, tensor) in model.weights.index().iter() {
        *bytes.entry(tensor.dtype.to_string()).or_default() += tensor.bytes().unwrap_or(0);
    }
    let mut types: Vec<_> = bytes.into_iter().collect();
    types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    types
}

/// The reference counts with a divergence of zero.
fn mark_front(models: &mut [Assessed]) {
    let costs: Vec<_> = models
        .iter()
        .enumerate()
        .map(|(i, m)| match (i, m.measured.size) {
            (0, Some(size)) => Costs { bytes: size.bytes, kl_mean: 0.0 },
            _ => costs(&m.measured).unwrap_or(Costs { bytes: u64::MAX, kl_mean: f64::NAN }),
        })
        .collect();
    for (model, on_front) in models.iter_mut().zip(pareto::front(&costs)) {
        model.on_front = on_front;
    }
}

fn costs(measured: &Measured) -> Option<Costs> {
    let kl_mean = measured.fidelity.as_ref()?.divergence.as_ref()?.kl_mean.value;
    Some(Costs { bytes: measured.size?.bytes, kl_mean })
}

fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    (common < a.len().max(b.len())).then_some(common)
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// The processor's own name on Linux, else its architecture.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_different_token_is_found() {
        assert_eq!(first_difference(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(first_difference(&[1, 2, 3], &[1, 5, 3]), Some(1));
        assert_eq!(first_difference(&[1, 2], &[1, 2, 3]), Some(2));
    }
}
