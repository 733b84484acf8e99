//! Certificates: what a model computes for a fixed suite of questions, and whether it computes the same here.

mod check;
mod suite;

pub use check::{CaseDifference, Comparison, PartDifference, check};

use crate::{
    error::{AssessError, Named},
    portability::Feeding,
};
use coffer_engine::{Engine, EngineError, KvCache, Observer, Sampler, SamplingParams, Span, Want};
use coffer_evidence::{
    Certificate, LogitsDigest, LogitsHasher,
    certificate::{Case, Trace, mark},
};
use coffer_store::Model;
use suite::Question;
pub(crate) use suite::questions;

/// Tokens that follow each question.
const CONTINUED: usize = 24;
const GREEDY: SamplingParams = SamplingParams { temperature: 0.0, top_p: 1.0, seed: 0 };
/// How the drawn tokens are drawn.
const DRAWN: SamplingParams = SamplingParams { temperature: 0.8, top_p: 0.95, seed: 7 };

/// Told of steps done and steps in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Runs the suite and certifies what came of it. Every question is asked in three ways (in one piece, cut, in a batch):
/// what does not keep the contract gets no certificate.
///
/// # Errors
/// The model cannot be read or run, or two ways of asking gave different bits.
pub fn certify(name: &str, model: &Model, engine: &Engine, progress: Progress<'_>) -> Result<Certificate, AssessError> {
    let parts = model.parts(coffer_kernels::CONTRACT, engine.kv_format().name(), &mut |_, _| ()).of(name)?;
    let questions = suite::questions(name, model, engine.context())?;
    let mut cases = Vec::new();
    for (done, question) in questions.iter().enumerate() {
        progress(done as u64, questions.len() as u64);
        let case = answer(engine, question).of(name)?;
        // The traced run was the whole one.
        for feeding in [Feeding::Cut, Feeding::Batched] {
            let digest = LogitsDigest::of(&feeding.logits(engine, &question.tokens).of(name)?);
            if digest != case.logits {
                let (case, way) = (question.name.to_owned(), feeding.name());
                return Err(AssessError::BrokenContract { model: name.to_owned(), case, way });
            }
        }
        cases.push(case);
    }
    progress(questions.len() as u64, questions.len() as u64);
    Ok(Certificate::new(coffer_kernels::CONTRACT, engine.kv_format().name(), parts, cases))
}

/// Runs one question and notes its way through the layers.
fn answer(engine: &Engine, question: &Question) -> Result<Case, EngineError> {
    let tokens = &question.tokens;
    let (hidden, room) = (engine.config().hidden, (tokens.len() + CONTINUED).min(engine.context()));
    let mut cache = engine.cache(room.max(tokens.len()))?;
    let (mut hasher, mut trace, mut last) = (LogitsHasher::new(), Vec::<Trace>::new(), Vec::new());
    let mut marks = Marks { hidden, of_token: Vec::new(), first: 0 };
    engine.forward_observed(&mut [Span { cache: &mut cache, tokens, want: Want::All }], &mut marks, &mut |logits| {
        hasher.update(logits);
        last = logits.to_vec();
        let top = top(logits);
        trace.push(Trace {
            marks: mark(logits),
            top: top as u32,
            logit: format!("{:08x}", logits.get(top).map_or(0, |x| x.to_bits())),
        });
    })?;
    trace.iter_mut().zip(marks.of_token).for_each(|(trace, marks)| trace.marks.insert_str(0, &marks));
    Ok(Case {
        name: question.name.to_owned(),
        text: question.text.map(str::to_owned),
        tokens: tokens.clone(),
        logits: hasher.finish(),
        trace,
        greedy: continued(engine, &mut cache, &last, GREEDY)?,
        drawn: continued(engine, &mut cache, &last, DRAWN)?,
    })
}

/// Marks of the residual stream by token, in the order in which passes and layers give them.
struct Marks {
    hidden: usize,
    of_token: Vec<String>,
    /// First token of the pass.
    first: usize,
}

impl Observer for Marks {
    fn residual(&mut self, layers: usize, x: &[f32]) {
        if layers == 0 {
            self.first = self.of_token.len();
            self.of_token.resize(self.first + x.len() / self.hidden, String::new());
        }
        let tokens = self.of_token[self.first..].iter_mut().zip(x.chunks_exact(self.hidden));
        tokens.for_each(|(marks, row)| marks.push_str(&mark(row)));
    }
}

/// The tokens that follow what `cache` holds, whose last logits are `last`, as far as the cache has room. Leaves it as it was.
fn continued(engine: &Engine, cache: &mut KvCache, last: &[f32], sampling: SamplingParams) -> Result<Vec<u32>, EngineError> {
    let (start, sampler) = (cache.len(), Sampler::new(sampling));
    let (mut logits, mut tokens) = (last.to_vec(), Vec::new());
    while tokens.len() < CONTINUED {
        let token = sampler.choose(&logits, cache.len() as u64).token;
        tokens.push(token);
        if cache.len() == cache.capacity() {
            break;
        }
        logits = engine.forward(&mut [Span { cache, tokens: &[token], want: Want::Last }])?;
    }
    cache.truncate(start);
    Ok(tokens)
}

/// The most likely token; ties go to the lowest id.
fn top(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold(0, |best, (i, x)| if x.total_cmp(&logits[best]).is_gt() { i } else { best })
}
