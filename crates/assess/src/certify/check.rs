//! Whether a model here is and computes what a certificate says, and where it first differs.

use super::{Progress, Question, answer};
use crate::error::{AssessError, Named};
use coffer_engine::Engine;
use coffer_evidence::{
    Certificate,
    certificate::{Case, Parts},
};
use coffer_store::Model;
use serde_json::Value;

/// Names of differing tensors that are listed; the rest is counted.
const LISTED: usize = 8;

/// What differs from a certificate; nothing: equal.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Cases that were run.
    pub cases: usize,
    /// Tokens that were run.
    pub tokens: usize,
    /// Parts of the model that are others.
    pub parts: Vec<PartDifference>,
    /// Questions with another answer.
    pub answers: Vec<CaseDifference>,
}

/// A part of the model that differs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PartDifference {
    /// `contract`, `kv_format`, `configuration`, `tokenizer`, `template` or `weights`.
    pub part: &'static str,
    /// Field, tensor or tokens, with both values where they are short.
    pub detail: String,
}

/// Where an answer first differs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CaseDifference {
    /// Question.
    pub case: String,
    /// First token whose numbers differ, from 0; `None` if only what follows the question differs.
    pub token: Option<usize>,
    /// First stage at which they differ: `embedding`, `layer 0` …, `logits`, `continuation`.
    pub stage: String,
    /// The winning token and its logit in the certificate and here.
    pub certified: Option<(u32, f32)>,
    /// The same here.
    pub here: Option<(u32, f32)>,
}

impl Comparison {
    /// Whether everything is equal, to the bit.
    pub fn equal(&self) -> bool {
        self.parts.is_empty() && self.answers.is_empty()
    }
}

/// Compares the parts of `model`, then runs the certificate's own tokens and compares every number on their way.
/// Under another contract numbers cannot be compared: then only the parts are.
///
/// # Errors
/// The model cannot be read or run, or a question does not fit into it.
pub fn check(
    certificate: &Certificate,
    name: &str,
    model: &Model,
    engine: &Engine,
    progress: Progress<'_>,
) -> Result<Comparison, AssessError> {
    let (contract, kv_format) = (coffer_kernels::CONTRACT, engine.kv_format().name());
    let here = model.parts(contract, kv_format, &mut |_, _| ()).of(name)?;
    let mut found = Comparison { parts: different_parts(&certificate.model, &here), ..Comparison::default() };
    for (part, certified, here) in
        [("contract", certificate.contract.as_str(), contract), ("kv_format", certificate.kv_format.as_str(), kv_format)]
    {
        if certified != here {
            found.parts.insert(0, PartDifference { part, detail: format!("{certified} in the certificate, {here} here") });
        }
    }
    if certificate.contract != contract || certificate.kv_format != kv_format {
        return Ok(found);
    }
    for (done, case) in certificate.cases.iter().enumerate() {
        progress(done as u64, certificate.cases.len() as u64);
        found.parts.extend(different_reading(case, name, model)?);
        let answered = answer(engine, &Question { name: "", text: None, tokens: case.tokens.clone() }).of(name)?;
        found.answers.extend(different_answer(case, &answered));
        found.cases += 1;
        found.tokens += case.tokens.len() + answered.greedy.len() + answered.drawn.len();
    }
    progress(certificate.cases.len() as u64, certificate.cases.len() as u64);
    Ok(found)
}

fn different_parts(certified: &Parts, here: &Parts) -> Vec<PartDifference> {
    let mut found = Vec::new();
    let mut differ = |part, detail| found.push(PartDifference { part, detail });
    if certified.configuration != here.configuration {
        differ("configuration", different_fields(&certified.configuration, &here.configuration));
    }
    for (part, certified, here) in
        [("tokenizer", certified.tokenizer, here.tokenizer), ("template", certified.template, here.template)]
    {
        if certified != here {
            differ(part, format!("{certified} in the certificate, {here} here"));
        }
    }
    if certified.weights != here.weights {
        differ("weights", different_tensors(certified, here));
    }
    found
}

/// `rope_theta: 10000 in the certificate, 500000 here; …`
fn different_fields(certified: &Value, here: &Value) -> String {
    let keys = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(certified);
    all.extend(keys(here));
    all.sort();
    all.dedup();
    let different = all.iter().filter(|key| certified.get(*key) != here.get(*key));
    let shown = |value: &Value, key: &str| value.get(key).map_or("nothing".to_owned(), Value::to_string);
    let lines = different.map(|key| format!("{key}: {} in the certificate, {} here", shown(certified, key), shown(here, key)));
    lines.collect::<Vec<_>>().join("; ")
}

/// The first tensors that differ, and how many do.
fn different_tensors(certified: &Parts, here: &Parts) -> String {
    let lacking =
        certified.tensors.keys().filter(|name| !here.tensors.contains_key(*name)).map(|name| format!("{name} (missing)"));
    let other = here.tensors.iter().filter(|(name, digest)| certified.tensors.get(*name) != Some(*digest));
    let names: Vec<String> = lacking.chain(other.map(|(name, _)| name.clone())).collect();
    if names.is_empty() {
        return "the bytes of each tensor are equal; types or shapes differ".to_owned();
    }
    let listed = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    let rest = names.len().saturating_sub(LISTED);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{} of {} tensors differ: {listed}{rest}", names.len(), certified.tensors.len())
}

/// Whether the model's tokenizer still reads the question's text as the same tokens.
fn different_reading(case: &Case, name: &str, model: &Model) -> Result<Option<PartDifference>, AssessError> {
    let (Some(text), Some(tokenizer)) = (&case.text, &model.tokenizer) else { return Ok(None) };
    let mut here = tokenizer.encode(text, true).of(name)?;
    here.truncate(case.tokens.len());
    let at = case.tokens.iter().zip(&here).position(|(a, b)| a != b).or((here.len() < case.tokens.len()).then_some(here.len()));
    Ok(at.map(|at| {
        let shown = |ids: &[u32]| ids.get(at).map_or("the end".to_owned(), u32::to_string);
        let (certified, here) = (shown(&case.tokens), shown(&here));
        let detail =
            format!("`{}` reads as other tokens from token {at} on: {certified} in the certificate, {here} here", case.name);
        PartDifference { part: "tokenizer", detail }
    }))
}

fn different_answer(certified: &Case, here: &Case) -> Option<CaseDifference> {
    let pairs = || certified.trace.iter().zip(&here.trace);
    let first = pairs().position(|(a, b)| a != b);
    let difference = |token: Option<usize>, stage| {
        let of = |case: &Case| token.and_then(|t| case.trace.get(t)).and_then(|t| Some((t.top, t.value()?)));
        CaseDifference { case: certified.name.clone(), token, stage, certified: of(certified), here: of(here) }
    };
    match first {
        Some(token) => {
            let (a, b) = (&certified.trace[token], &here.trace[token]);
            let stages = a.marks.len() / 8;
            let stage = match a.first_difference(b) {
                Some(0) => "embedding".to_owned(),
                Some(stage) if stage + 1 < stages => format!("layer {}", stage - 1),
                _ => "logits".to_owned(),
            };
            Some(difference(Some(token), stage))
        }
        None if certified.logits != here.logits => Some(difference(None, "logits".to_owned())),
        None if (&certified.greedy, &certified.drawn) != (&here.greedy, &here.drawn) => {
            Some(difference(None, "continuation".to_owned()))
        }
        None => None,
    }
}
