//! Choosing the next token. Deterministic: randomness is counter-based on (seed, position), sums run in the order of
//! the ids, and no step depends on the machine.
//!
//! Logits that are no finite numbers have a meaning: NaN and −∞ count as the smallest float, ∞ as the largest.

use crate::random;
use coffer_kernels::{Cpu, Isa, math::exp};
use std::cmp::Ordering;

/// A token whose probability is below e to this of the most likely one's is never drawn.
const NEGLIGIBLE: f64 = -40.0;

/// How to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits. 0, as everything that is not above it, is greedy.
    pub temperature: f32,
    /// Draw from the smallest set of most likely tokens whose probability reaches this; 1 or more: from all.
    pub top_p: f32,
    /// Seed of the generator.
    pub seed: u64,
}

/// A token and the natural logarithm of its probability before temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Token.
    pub token: u32,
    /// Its log probability.
    pub logprob: f32,
}

/// Chooses tokens for one sequence.
pub struct Sampler {
    params: SamplingParams,
}

impl Sampler {
    /// A sampler with `params`.
    pub fn new(params: SamplingParams) -> Self {
        Self { params }
    }
    /// Chooses from one row of logits, not empty, the token at `position`. Ties go to the lowest id.
    pub fn choose(&self, logits: &[f32], position: u64) -> Choice {
        self.choose_and_rank(logits, position, 0).0
    }
    /// Chooses as [`Sampler::choose`] does, and ranks as [`top`] does.
    pub fn choose_and_rank(&self, logits: &[f32], position: u64, n: usize) -> (Choice, Vec<Choice>) {
        let mut row = cleaned(logits);
        let token = if self.params.temperature > 0.0 { self.draw(&row, position) } else { most_likely(&row) };
        let ids = ranked(&row, n);
        log_probabilities(&mut row);
        (choice(&row, token), ids.into_iter().map(|id| choice(&row, id)).collect())
    }

    fn draw(&self, logits: &[f32], position: u64) -> usize {
        let greatest = f64::from(logits[most_likely(logits)]);
        let temperature = f64::from(self.params.temperature);
        let mut candidates: Vec<(usize, f64)> = Vec::new();
        for (id, &logit) in logits.iter().enumerate() {
            let exponent = (f64::from(logit) - greatest) / temperature;
            if exponent >= NEGLIGIBLE {
                candidates.push((id, exp(exponent)));
            }
        }
        if self.params.top_p < 1.0 {
            keep_nucleus(&mut candidates, f64::from(self.params.top_p));
        }
        let point = random::uniform(self.params.seed, position) * sum(&candidates);
        let mut reached = 0.0;
        let drawn = candidates.iter().find(|(_, weight)| {
            reached += weight;
            point < reached
        });
        drawn.or(candidates.last()).map_or(0, |&(id, _)| id)
    }
}

/// The `n` most likely tokens of one row of logits with their log probabilities, most likely first; ties in the order of ids.
pub fn top(logits: &[f32], n: usize) -> Vec<Choice> {
    let mut row = cleaned(logits);
    let ids = ranked(&row, n);
    log_probabilities(&mut row);
    ids.into_iter().map(|id| choice(&row, id)).collect()
}

/// Log probabilities of `tokens` by one row of logits: those that [`top`] gives. −∞ for a token outside the row.
pub fn log_probabilities_of(logits: &[f32], tokens: &[u32]) -> Vec<f32> {
    let mut row = cleaned(logits);
    log_probabilities(&mut row);
    tokens.iter().map(|&token| row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY)).collect()
}

fn cleaned(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|&x| if x.is_nan() { f32::MIN } else { x.clamp(f32::MIN, f32::MAX) }).collect()
}

fn log_probabilities(row: &mut [f32]) {
    let isa = Isa::available().pop().unwrap_or(Isa::Scalar);
    let width = row.len();
    Cpu::new(isa, 1).log_softmax(row, width);
}

fn choice(logprobs: &[f32], id: usize) -> Choice {
    Choice { token: id as u32, logprob: logprobs[id] }
}

fn most_likely(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (id, x)| if *x > row[best] { id } else { best })
}

/// The `n` ids with the highest logits, highest first; ties in the order of ids.
fn ranked(logits: &[f32], n: usize) -> Vec<usize> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let order = |&a: &usize, &b: &usize| descending(logits[a], logits[b]).then(a.cmp(&b));
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.select_nth_unstable_by(n - 1, order);
    ids.truncate(n);
    ids.sort_unstable_by(order);
    ids
}

/// Keeps the most likely candidates until their share reaches `top_p`, at least one.
fn keep_nucleus(candidates: &mut Vec<(usize, f64)>, top_p: f64) {
    let total = sum(candidates);
    // Candidates below this have less than 1 − top_p together: they lie outside and need not be sorted.
    let bar = ((1.0 - top_p) * total / candidates.len() as f64).min(0.5);
    candidates.retain(|&(_, weight)| weight >= bar);
    candidates.sort_unstable_by(|a, b| descending(a.1, b.1).then(a.0.cmp(&b.0)));
    let mut reached = 0.0;
    let kept = candidates.iter().take_while(|(_, weight)| {
        let missing = reached < top_p * total;
        reached += weight;
        missing
    });
    let kept = kept.count().max(1);
    candidates.truncate(kept);
}

fn sum(candidates: &[(usize, f64)]) -> f64 {
    candidates.iter().map(|&(_, weight)| weight).sum()
}

fn descending<T: PartialOrd>(a: T, b: T) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(SamplingParams { temperature, top_p, seed })
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let greedy = sampler(0.0, 1.0, 0);
        assert_eq!(greedy.choose(&[1.0, 3.0, -0.0, 3.0], 9).token, 1);
        assert_eq!(greedy.choose(&[-0.0, 0.0], 9).token, 0);
        assert_eq!(sampler(f32::NAN, f32::NAN, 0).choose(&[0.0, 1.0], 0).token, 1);
    }

    #[test]
    fn log_probabilities_are_those_of_the_plain_softmax() {
        let logits = [0.5f32, -1.0, 2.0, 0.0];
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let got = top(&logits, 10);
        assert_eq!(got.iter().map(|c| c.token).collect::<Vec<_>>(), [2, 0, 3, 1]);
        for choice in got {
            let want = f64::from(logits[choice.token as usize]) - sum.ln();
            assert!((f64::from(choice.logprob) - want).abs() < 1e-6);
        }
        assert_eq!(top(&[2.0, 2.0, 2.0], 2).iter().map(|c| c.token).collect::<Vec<_>>(), [0, 1]);
        assert!(top(&logits, 0).is_empty());
    }

    #[test]
    fn logits_that_are_no_numbers_have_a_meaning() {
        let greedy = sampler(0.0, 1.0, 0);
        assert_eq!(greedy.choose(&[f32::NAN, 1.0, f32::NEG_INFINITY], 0).token, 1);
        assert_eq!(greedy.choose(&[1.0, f32::INFINITY, f32::NAN], 0), Choice { token: 1, logprob: 0.0 });
        let hot = sampler(1.0, 0.9, 3);
        assert_eq!(hot.choose(&[1.0, f32::INFINITY, f32::NAN], 0).token, 1);
        for row in [[f32::NAN; 4], [f32::NEG_INFINITY; 4]] {
            let Choice { token, logprob } = greedy.choose(&row, 0);
            assert_eq!(token, 0);
            assert!((logprob + 4f32.ln()).abs() < 1e-6);
            assert!(hot.choose(&row, 0).token < 4);
        }
    }

    /// Frequencies of 20 000 draws against the probabilities that the definition gives.
    #[test]
    fn draws_follow_the_distribution() {
        let logits = [2.0f32, 0.0, 1.0, -3.0, 1.5];
        for (temperature, top_p, nucleus) in [(1.0, 1.0, 5), (0.5, 1.0, 5), (1.0, 0.8, 3), (2.0, 0.5, 2), (1.0, 0.0, 1)] {
            let mut order = [0, 4, 2, 1, 3];
            let weights = logits.map(|x| (f64::from(x) / f64::from(temperature)).exp());
            order[nucleus..].iter_mut().for_each(|id| *id = 5);
            let kept = |id: &usize| if order.contains(id) { weights[*id] } else { 0.0 };
            let total: f64 = (0..5).map(|id| kept(&id)).sum();
            let mut counts = [0; 5];
            let sampler = sampler(temperature, top_p, 11);
            (0..20_000).for_each(|position| counts[sampler.choose(&logits, position).token as usize] += 1);
            for (id, count) in counts.iter().enumerate() {
                let (got, want) = (f64::from(*count) / 20_000.0, kept(&id) / total);
                assert!((got - want).abs() < 0.02, "t {temperature} p {top_p} token {id}: {got} for {want}");
            }
        }
    }

    proptest! {
        /// A slow plain nucleus: sort everything, no shortcut.
        #[test]
        fn only_the_nucleus_is_drawn(logits in prop::collection::vec(-8.0..8.0f32, 1..200), top_p in 0.01..0.999f32, seed: u64) {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let weight = |id: usize| f64::from(logits[id] - logits[order[0]]).exp();
            let total: f64 = order.iter().map(|&id| weight(id)).sum();
            let mut reached = 0.0;
            let nucleus: Vec<usize> = order.iter().copied().take_while(|&id| {
                let missing = reached < (f64::from(top_p) + 1e-9) * total;
                reached += weight(id);
                missing
            }).collect();
            let sampler = sampler(1.0, top_p, seed);
            for position in 0..50 {
                let choice = sampler.choose(&logits, position);
                prop_assert!(nucleus.contains(&(choice.token as usize)));
                prop_assert_eq!(choice, sampler.choose(&logits, position));
            }
        }
    }
}
