//! Perplexity, and divergence of variants from a reference, on the same tokens.

mod variations;

pub use variations::{Variation, compare_variations};

use crate::{
    error::{AssessError, Named},
    figures::Reading,
    forward, stats,
};
use coffer_checkpoint::TensorSource;
use coffer_engine::{Engine, EngineError, KvCache, Layerwise, LoadOptions, observe::Nobody};
use coffer_kernels::math;
use coffer_model::ModelConfig;
use std::{ops::Range, sync::Arc};

/// Tokens of a text cut into windows that do not overlap; each is run on its own.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    tokens: &'a [u32],
    window: usize,
    skip: usize,
}

impl<'a> Windows<'a> {
    /// Windows of `window` tokens; in each, the tokens after the first `skip + 1` are scored.
    /// `skip` is 0 for most measurements; `window / 2` scores as llama.cpp's perplexity tool does.
    ///
    /// # Errors
    /// A window holds nothing to score, or the text does not.
    pub fn new(tokens: &'a [u32], window: usize, skip: usize, context: usize) -> Result<Self, AssessError> {
        if window < 2 || window > context || skip > window - 2 {
            return Err(AssessError::Window { window, skip, context });
        }
        if tokens.len() < skip + 2 {
            return Err(AssessError::ShortText { tokens: tokens.len(), need: skip + 2 });
        }
        Ok(Self { tokens, window, skip })
    }
    /// Tokens that are scored in all.
    pub fn scored(&self) -> usize {
        self.sequences().iter().map(|w| w.len() - 1 - self.skip).sum()
    }
    /// The windows that have something to score.
    fn sequences(&self) -> Vec<&'a [u32]> {
        self.tokens.chunks(self.window).filter(|w| w.len() > self.skip + 1).collect()
    }
}

/// How well a model predicts a text, and how far it is from a reference there.
#[derive(Clone, Debug, PartialEq)]
pub struct Fidelity {
    /// Tokens that were scored.
    pub scored: u64,
    /// exp of the mean negative log probability.
    pub perplexity: Reading,
    /// Distance from the reference, where there was one.
    pub divergence: Option<Divergence>,
}

/// Distance from a reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// Perplexity over the reference's.
    pub perplexity_ratio: Reading,
    /// Mean KL(reference ‖ variant), nats.
    pub kl_mean: Reading,
    /// 99th percentile of the same, nats.
    pub kl_p99: f64,
    /// Share of positions with the same most likely token.
    pub same_top: Reading,
}

/// A loaded model under a name.
#[derive(Clone, Copy)]
pub struct Loaded<'a> {
    /// Name, for errors.
    pub name: &'a str,
    /// The model.
    pub engine: &'a Engine,
}

/// Measures one model alone.
///
/// # Errors
/// The model cannot be run on the tokens.
pub fn evaluate(model: Loaded<'_>, windows: &Windows<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<Fidelity, AssessError> {
    let (reference, _) = compare(model, &[], windows, progress)?;
    Ok(reference)
}

/// Measures the reference and each variant on the same tokens, all of them step by step beside each other, so that no
/// more than two steps' logits are held. `progress` is called with scored tokens and scored tokens in all.
///
/// # Errors
/// A variant has another vocabulary, or a model cannot be run on the tokens.
pub fn compare(
    reference: Loaded<'_>,
    variants: &[Loaded<'_>],
    windows: &Windows<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Fidelity, Vec<Fidelity>), AssessError> {
    let vocab = reference.engine.config().vocab;
    for variant in variants {
        same_vocabulary((reference.name, vocab), (variant.name, variant.engine.config().vocab))?;
    }
    forward::check_tokens(reference.engine, windows.tokens).of(reference.name)?;
    let (sequences, rows) = (windows.sequences(), forward::rows_at_once(vocab));
    let (total, mut base, mut tallies) = (windows.scored(), Vec::with_capacity(windows.scored()), Vec::new());
    tallies.resize_with(variants.len(), Tally::default);
    for batch in forward::batches(&sequences, rows) {
        let caches = |m: &Loaded<'_>| forward::caches(m.engine, batch.iter().map(|s| s.len())).of(m.name);
        let mut reference_caches = caches(&reference)?;
        let mut variant_caches = variants.iter().map(caches).collect::<Result<Vec<_>, _>>()?;
        let mut done = 0;
        for pieces in forward::passes(batch, rows) {
            let scored = scored_rows(batch, &pieces, done, windows.skip);
            let step = Step::run(reference.engine, &mut reference_caches, &pieces, scored).of(reference.name)?;
            base.extend(step.losses(&step.log_probs));
            for ((variant, caches), tally) in variants.iter().zip(&mut variant_caches).zip(&mut tallies) {
                let log_probs = forward::log_probs(variant.engine, caches, &pieces).of(variant.name)?;
                tally.add(&step, &log_probs);
            }
            done += pieces.first().map_or(0, |p| p.len());
            progress(base.len() as u64, total as u64);
        }
    }
    Ok((alone(&base), tallies.iter().map(|t| t.summary(&base)).collect()))
}

/// A model that is read layer by layer while it runs.
#[derive(Clone)]
pub struct OnTheWay<'a> {
    /// Name, for errors.
    pub name: &'a str,
    /// Shape.
    pub config: &'a ModelConfig,
    /// Weights.
    pub weights: Arc<dyn TensorSource>,
}

/// As [`compare`] with one variant, with a layer of each in memory at a time: the same figures. `progress` is called with layers done
/// and layers in all.
///
/// # Errors
/// As [`compare`], and a layer cannot be read.
pub fn compare_layerwise(
    reference: OnTheWay<'_>,
    variant: OnTheWay<'_>,
    options: LoadOptions,
    windows: &Windows<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Fidelity, Fidelity), AssessError> {
    let vocab = reference.config.vocab;
    same_vocabulary((reference.name, vocab), (variant.name, variant.config.vocab))?;
    let sequences = windows.sequences();
    let names = [reference.name, variant.name];
    let start = |model: OnTheWay<'_>| {
        let texts = sequences.iter().map(|s| s.to_vec()).collect();
        Layerwise::start(model.config, model.weights, options, texts).of(model.name)
    };
    let mut models = [start(reference)?, start(variant)?];
    let total = models.iter().map(|m| m.config().layers as u64).sum();
    progress(0, total);
    loop {
        let mut any = false;
        for (model, name) in models.iter_mut().zip(names) {
            any |= model.advance(&mut Nobody).of(name)?;
        }
        progress(models.iter().map(|m| m.done() as u64).sum(), total);
        if !any {
            break;
        }
    }
    let [a, b] = models;
    let finished = [a.finish(&mut Nobody).of(names[0])?, b.finish(&mut Nobody).of(names[1])?];
    let log_probs = |m: usize, window, piece| forward::log_probs_of(&finished[m], window, piece).of(names[m]);
    let (alone, mut beside) = side_by_side(windows, vocab, 1, &log_probs)?;
    Ok((alone, beside.remove(0)))
}

/// Log probabilities `[tokens, vocab]` that follow some tokens of a window in a model: 0 is the reference, the variants come after it.
type LogProbs<'a> = dyn Fn(usize, usize, Range<usize>) -> Result<Vec<f32>, AssessError> + 'a;

/// The figures of a reference, and of so many variants beside it, a piece of a window after the other.
fn side_by_side(
    windows: &Windows<'_>,
    vocab: usize,
    variants: usize,
    log_probs: &LogProbs<'_>,
) -> Result<(Fidelity, Vec<Fidelity>), AssessError> {
    let (mut base, mut tallies) = (Vec::with_capacity(windows.scored()), Vec::new());
    tallies.resize_with(variants, Tally::default);
    for (i, sequence) in windows.sequences().iter().enumerate() {
        for piece in forward::pieces(sequence.len(), forward::rows_at_once(vocab)) {
            let scored = scored_rows(&[sequence], &[&sequence[piece.clone()]], piece.start, windows.skip);
            let step = Step::new(vocab, log_probs(0, i, piece.clone())?, scored);
            base.extend(step.losses(&step.log_probs));
            for (variant, tally) in (1..).zip(&mut tallies) {
                tally.add(&step, &log_probs(variant, i, piece.clone())?);
            }
        }
    }
    Ok((alone(&base), tallies.iter().map(|t| t.summary(&base)).collect()))
}

/// What a model's losses say of it alone.
fn alone(losses: &[f64]) -> Fidelity {
    Fidelity { scored: losses.len() as u64, perplexity: stats::exp(stats::mean(losses)), divergence: None }
}

fn same_vocabulary((reference, want): (&str, usize), (variant, got): (&str, usize)) -> Result<(), AssessError> {
    if got == want {
        return Ok(());
    }
    Err(AssessError::VocabulariesDiffer { reference: reference.to_owned(), want, variant: variant.to_owned(), got })
}

/// Rows of a pass that are scored: the row's place in the pass and the token that really follows.
/// `done` tokens of each sequence ran before.
fn scored_rows(batch: &[&[u32]], pieces: &[&[u32]], done: usize, skip: usize) -> Vec<(usize, usize)> {
    let mut scored = Vec::new();
    let mut row = 0;
    for (sequence, piece) in batch.iter().zip(pieces) {
        for position in done..done + piece.len() {
            if let Some(&next) = sequence.get(position + 1).filter(|_| position >= skip) {
                scored.push((row, next as usize));
            }
            row += 1;
        }
    }
    scored
}

/// What the reference says about one pass.
struct Step {
    vocab: usize,
    scored: Vec<(usize, usize)>,
    /// `[rows, vocab]`
    log_probs: Vec<f32>,
    /// The same for the scored rows, as probabilities, `[scored, vocab]`.
    probs: Vec<f32>,
    /// Most likely token of each scored row.
    tops: Vec<usize>,
}

impl Step {
    fn run(engine: &Engine, caches: &mut [KvCache], pieces: &[&[u32]], scored: Vec<(usize, usize)>) -> Result<Self, EngineError> {
        let log_probs = forward::log_probs(engine, caches, pieces)?;
        Ok(Self::new(engine.config().vocab, log_probs, scored))
    }

    fn new(vocab: usize, log_probs: Vec<f32>, scored: Vec<(usize, usize)>) -> Self {
        let mut step = Self { vocab, log_probs, probs: Vec::with_capacity(scored.len() * vocab), tops: Vec::new(), scored };
        for &(row, _) in &step.scored {
            let row = row_of(&step.log_probs, row, vocab);
            step.probs.extend(row.iter().map(|&x| math::exp_f32(x)));
            step.tops.push(top(row));
        }
        step
    }

    /// Negative log probabilities of the tokens that follow, in nats.
    fn losses<'a>(&'a self, log_probs: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        self.scored.iter().map(move |&(row, next)| -f64::from(row_of(log_probs, row, self.vocab)[next]))
    }
}

/// What was seen of one variant so far, position by position.
#[derive(Default)]
struct Tally {
    losses: Vec<f64>,
    divergences: Vec<f64>,
    same_top: usize,
}

impl Tally {
    fn add(&mut self, step: &Step, log_probs: &[f32]) {
        self.losses.extend(step.losses(log_probs));
        for ((&(row, _), &top_there), probs) in step.scored.iter().zip(&step.tops).zip(step.probs.chunks_exact(step.vocab)) {
            let (there, here) = (row_of(&step.log_probs, row, step.vocab), row_of(log_probs, row, step.vocab));
            self.divergences.push(divergence(probs, there, here));
            self.same_top += usize::from(top(here) == top_there);
        }
    }

    fn summary(&self, reference: &[f64]) -> Fidelity {
        let differences: Vec<f64> = self.losses.iter().zip(reference).map(|(here, there)| here - there).collect();
        Fidelity {
            scored: self.losses.len() as u64,
            perplexity: stats::exp(stats::mean(&self.losses)),
            divergence: Some(Divergence {
                perplexity_ratio: stats::exp(stats::mean(&differences)),
                kl_mean: stats::mean(&self.divergences),
                kl_p99: stats::percentile(&self.divergences, 99),
                same_top: stats::share(self.same_top, self.losses.len()),
            }),
        }
    }
}

fn row_of(rows: &[f32], row: usize, vocab: usize) -> &[f32] {
    &rows[row * vocab..][..vocab]
}

/// Σ p·(ln p − ln q), in eight interleaved sums added in order; rounding below zero counts as zero, tokens of probability 0 as nothing.
fn divergence(probs: &[f32], there: &[f32], here: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for ((p, lp), lq) in probs.chunks(8).zip(there.chunks(8)).zip(here.chunks(8)) {
        for (i, sum) in sums.iter_mut().enumerate().take(p.len()) {
            if p[i] > 0.0 {
                *sum += f64::from(p[i]) * (f64::from(lp[i]) - f64::from(lq[i]));
            }
        }
    }
    let sum: f64 = sums.iter().sum();
    if sum < 0.0 { 0.0 } else { sum }
}

/// The largest entry; ties go to the lowest.
fn top(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log_softmax(logits: &[f32]) -> Vec<f32> {
        let max = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        logits.iter().map(|&x| (f64::from(x) - max - sum.ln()) as f32).collect()
    }

    fn slow_kl(a: &[f32], b: &[f32]) -> f64 {
        let softmax = |l: &[f32]| -> Vec<f64> {
            let e: Vec<f64> = l.iter().map(|&x| f64::from(x).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|x| x / sum).collect()
        };
        let (p, q) = (softmax(a), softmax(b));
        p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
    }

    fn step(logits: &[Vec<f32>], scored: Vec<(usize, usize)>) -> Step {
        Step::new(logits[0].len(), logits.iter().flat_map(|l| log_softmax(l)).collect(), scored)
    }

    proptest! {
        #[test]
        fn divergence_and_losses_equal_a_slow_reference(
            rows in prop::collection::vec((prop::collection::vec(-8.0f32..8.0, 13), prop::collection::vec(-8.0f32..8.0, 13), 0usize..13), 1..20),
        ) {
            let (a, b): (Vec<_>, Vec<_>) = rows.iter().map(|(a, b, _)| (a.clone(), b.clone())).unzip();
            let scored: Vec<_> = rows.iter().enumerate().map(|(i, r)| (i, r.2)).collect();
            let step = step(&a, scored);
            let here: Vec<f32> = b.iter().flat_map(|l| log_softmax(l)).collect();
            let mut tally = Tally::default();
            tally.add(&step, &here);
            for (i, (a, b, next)) in rows.iter().enumerate() {
                prop_assert!((tally.divergences[i] - slow_kl(a, b)).abs() < 1e-5);
                let loss = -(f64::from(b[*next]).exp() / b.iter().map(|&x| f64::from(x).exp()).sum::<f64>()).ln();
                prop_assert!((tally.losses[i] - loss).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let logits = [vec![0.3, -2.0, 7.5, 7.5], vec![1.0, 1.0, 1.0, 1.0]];
        let step = step(&logits, vec![(0, 1), (1, 3)]);
        let mut tally = Tally::default();
        tally.add(&step, &step.log_probs.clone());
        let base: Vec<f64> = step.losses(&step.log_probs).collect();
        let d = tally.summary(&base).divergence.unwrap();
        assert_eq!((d.kl_mean.value, d.kl_p99, d.same_top.value, d.perplexity_ratio.value), (0.0, 0.0, 1.0, 1.0));
    }

    #[test]
    fn the_top_of_a_tie_is_the_lowest_token() {
        assert_eq!(top(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(top(&[f32::NEG_INFINITY; 3]), 0);
    }

    #[test]
    fn impossible_tokens_count_for_nothing_and_impossible_variants_for_everything() {
        let never = f32::NEG_INFINITY;
        assert_eq!(divergence(&[1.0, 0.0], &[0.0, never], &[0.0, never]), 0.0);
        assert_eq!(divergence(&[0.5, 0.5], &[-0.7, -0.7], &[0.0, never]), f64::INFINITY);
    }

    #[test]
    fn rows_are_scored_after_the_skipped_ones_and_before_the_end() {
        let ids = [5u32, 6, 7, 8];
        assert_eq!(scored_rows(&[&ids, &ids[..2]], &[&ids, &ids[..2]], 0, 0), [(0, 6), (1, 7), (2, 8), (4, 6)]);
        assert_eq!(scored_rows(&[&ids], &[&ids], 0, 2), [(2, 8)]);
        assert_eq!(scored_rows(&[&ids], &[&ids[2..]], 2, 0), [(0, 8)]);
    }

    #[test]
    fn windows_that_score_nothing_are_refused() {
        let ids: Vec<u32> = (0..10).collect();
        for (window, skip) in [(1, 0), (4, 3), (0, 0), (33, 0)] {
            assert!(matches!(Windows::new(&ids, window, skip, 32), Err(AssessError::Window { .. })), "{window} {skip}");
        }
        assert!(matches!(Windows::new(&ids[..1], 4, 0, 32), Err(AssessError::ShortText { tokens: 1, need: 2 })));
        assert_eq!(Windows::new(&ids, 4, 0, 32).unwrap().scored(), 3 + 3 + 1);
        assert_eq!(Windows::new(&ids[..9], 4, 0, 32).unwrap().scored(), 6);
        assert_eq!(Windows::new(&ids, 4, 2, 32).unwrap().scored(), 2);
    }
}
