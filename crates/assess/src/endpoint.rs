//! Whether an endpoint serves a certain model. The same questions are asked there and of the model here, and the log
//! probabilities of the token that follows are compared. Coffer's own server gives the same bits. Another engine rounds
//! differently, so its answers are compared with what an *alternative* would change: the same model in another quantization, say.
//! docs/endpoint.md has the reasoning and measured rates of error.

mod question;
mod served;
mod sign;

pub use question::{Question, questions_of_certificates, questions_of_chat, questions_of_text};
pub use served::{Served, Unanswered, Vocabulary};

use crate::{
    error::{AssessError, Named},
    fidelity::Loaded,
    figures::Reading,
    stats,
};
use coffer_engine::{Span, Want, sampling};

/// Log probabilities that a model gives to the tokens that an endpoint named, question by question.
pub type Likelihoods = Vec<Vec<f32>>;

/// What was found out about an endpoint.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Finding {
    /// What it comes to.
    pub verdict: Verdict,
    /// Questions asked.
    pub questions: usize,
    /// Questions that were answered with the bits of the certified model.
    pub equal: usize,
    /// Whether the endpoint's fingerprint says that it runs the certified model under the same contract.
    pub claims_equality: bool,
    /// Where the bits first differ.
    pub first_difference: Option<Difference>,
    /// How far the endpoint is from the certified model.
    pub distance: Reading,
    /// What else it might serve.
    pub alternatives: Vec<Alternative>,
}

/// What a finding comes to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "alternative")]
pub enum Verdict {
    /// The certified model: every bit is the same.
    Equal,
    /// Another one than its fingerprint says: under one contract the bits would be the same.
    Contradicted,
    /// The certified model: nearer to it than each alternative is.
    Consistent,
    /// Rather this alternative: nearer to it than to the certified model.
    Alternative(String),
    /// Something else: farther from the certified model than each alternative is.
    Farther,
    /// Not told apart with so many questions.
    Undecided,
}

impl Verdict {
    /// Whether the endpoint was shown to serve the certified model.
    pub fn accepted(&self) -> bool {
        matches!(self, Self::Equal | Self::Consistent)
    }
}

/// A log probability that differs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// Question, from 0.
    pub question: usize,
    /// Token.
    pub token: u32,
    /// Its log probability after the question, of the certified model.
    pub certified: f32,
    /// The same from the endpoint.
    pub served: f32,
}

/// A model that the endpoint might serve instead. Distances are means of |Δ log p| over the tokens that the endpoint named.
///
/// Each probability is that of a sign test over the questions (one-sided, exact): of so clear a result if neither side were more
/// likely than the other.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Alternative {
    /// Its name.
    pub name: String,
    /// How far it is from the certified model.
    pub apart: Reading,
    /// How far the endpoint is from it.
    pub distance: Reading,
    /// Questions at which the endpoint is nearer to the certified model than the alternative is to that.
    pub within: usize,
    /// Of so many if the endpoint were as far from the certified model as the alternative is.
    pub p_within: f64,
    /// Of so few, likewise.
    pub p_beyond: f64,
    /// Questions at which the endpoint is nearer to the alternative than to the certified model.
    pub nearer: usize,
    /// Of so many if the endpoint were as near to the one as to the other.
    pub p_nearer: f64,
}

/// Runs the questions and looks up what was served. `progress` is called with questions and questions in all.
///
/// # Errors
/// The model cannot be run on a question.
pub fn likelihoods(
    model: Loaded<'_>,
    questions: &[Question],
    served: &[Served],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Likelihoods, AssessError> {
    let mut all = Vec::with_capacity(questions.len());
    for (question, served) in questions.iter().zip(served) {
        let mut cache = model.engine.cache(question.tokens.len()).of(model.name)?;
        let span = Span { cache: &mut cache, tokens: &question.tokens, want: Want::Last };
        let logits = model.engine.forward(&mut [span]).of(model.name)?;
        let tokens: Vec<u32> = served.likely.iter().map(|(token, _)| *token).collect();
        all.push(sampling::log_probabilities_of(&logits, &tokens));
        progress(all.len() as u64, questions.len() as u64);
    }
    Ok(all)
}

/// Judges what was served by what the certified model and alternatives to it give, with a chance of error of at most `1 - confidence`.
/// `fingerprint` is how Coffer's server would name the certified model.
pub fn judge(
    fingerprint: &str,
    served: &[Served],
    certified: &Likelihoods,
    alternatives: Vec<(String, Likelihoods)>,
    confidence: f64,
) -> Finding {
    let likely: Likelihoods = served.iter().map(|s| s.likely.iter().map(|(_, p)| *p).collect()).collect();
    let differences = served.iter().zip(certified).enumerate().map(|(question, (served, certified))| {
        let mut pairs = served.likely.iter().zip(certified);
        let (&(token, served), &certified) = pairs.find(|((_, a), b)| a.to_bits() != b.to_bits())?;
        Some(Difference { question, token, certified, served })
    });
    let differences: Vec<_> = differences.collect();
    let distances = distances(&likely, certified);
    let mut finding = Finding {
        verdict: Verdict::Undecided,
        questions: served.len(),
        equal: differences.iter().filter(|d| d.is_none()).count(),
        claims_equality: served.iter().all(|s| s.fingerprint.as_deref() == Some(fingerprint)),
        first_difference: differences.into_iter().flatten().next(),
        distance: stats::mean(&distances),
        alternatives: alternatives.into_iter().map(|a| Alternative::new(a, &likely, certified, &distances)).collect(),
    };
    finding.verdict = finding.verdict(1.0 - confidence);
    finding
}

impl Finding {
    fn verdict(&self, error: f64) -> Verdict {
        let all = |p: fn(&Alternative) -> f64| !self.alternatives.is_empty() && self.alternatives.iter().all(|a| p(a) <= error);
        // Any of several may be taken for it by chance.
        let shared = error / self.alternatives.len().max(1) as f64;
        let nearest = self.alternatives.iter().min_by(|a, b| a.distance.value.total_cmp(&b.distance.value));
        match nearest {
            _ if self.equal == self.questions => Verdict::Equal,
            _ if self.claims_equality => Verdict::Contradicted,
            // Before `Consistent`: who serves the alternative is within it at half of the questions, by chance at nearly all.
            Some(nearest) if nearest.p_nearer <= shared => Verdict::Alternative(nearest.name.clone()),
            _ if all(|a| a.p_within) => Verdict::Consistent,
            _ if all(|a| a.p_beyond) => Verdict::Farther,
            _ => Verdict::Undecided,
        }
    }
}

impl Alternative {
    fn new((name, its): (String, Likelihoods), served: &Likelihoods, certified: &Likelihoods, distances: &[f64]) -> Self {
        let (apart, from_it) = (self::distances(&its, certified), self::distances(served, &its));
        let count = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a < b).count();
        let (within, nearer, n) = (count(distances, &apart), count(&from_it, distances), distances.len());
        Self {
            name,
            apart: stats::mean(&apart),
            distance: stats::mean(&from_it),
            within,
            p_within: sign::at_least(within, n),
            p_beyond: sign::at_least(count(&apart, distances), n),
            nearer,
            p_nearer: sign::at_least(nearer, n),
        }
    }
}

/// Mean |Δ log p| of each question.
fn distances(a: &Likelihoods, b: &Likelihoods) -> Vec<f64> {
    let mean = |a: &[f32], b: &[f32]| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
        sum / a.len().max(1) as f64
    };
    a.iter().zip(b).map(|(a, b)| mean(a, b)).collect()
}

#[cfg(test)]
mod tests;
