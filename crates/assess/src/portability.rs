//! Does the model give the same bits on every instruction set and thread count that this machine runs, alone and in a
//! batch, with the prompt in one piece and cut?

use crate::error::{AssessError, Named};
use coffer_engine::{Engine, EngineError, KvCache, LoadOptions, Span, Want};
use coffer_evidence::LogitsDigest;
use coffer_kernels::{Isa, KvFormat};
use coffer_store::Model;

/// What to run.
#[derive(Clone, Debug)]
pub struct PortabilityOptions {
    /// Thread counts.
    pub threads: Vec<usize>,
    /// Tokens of the sequence at most: the scalar code is slow.
    pub tokens: usize,
}

impl Default for PortabilityOptions {
    fn default() -> Self {
        Self { threads: vec![1, 2, 4], tokens: 64 }
    }
}

/// Digests of the same sequence's logits in different ways of running it.
#[derive(Clone, Debug, PartialEq)]
pub struct Portability {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Version of the numeric contract.
    pub contract: String,
    /// What was run.
    pub runs: Vec<Run>,
}

/// One way of running and what came of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Run {
    /// Instruction set.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// How the tokens were fed.
    pub feeding: Feeding,
    /// Digest of the logits of every token.
    pub digest: LogitsDigest,
}

/// How the tokens were fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Feeding {
    /// In one pass, alone.
    Whole,
    /// In pieces of uneven length.
    Cut,
    /// In one pass between two other sequences.
    Batched,
}

impl Portability {
    /// Different digests; 1: the same bits every way.
    pub fn distinct(&self) -> usize {
        let mut digests: Vec<_> = self.runs.iter().map(|r| r.digest.0).collect();
        digests.sort_unstable();
        digests.dedup();
        digests.len()
    }
    /// Whether all bits are the same.
    pub fn equal(&self) -> bool {
        self.distinct() == 1
    }
}

/// Runs `tokens` (cut to what `options` and the context allow) in every way: whole on each instruction set and thread
/// count, cut and batched on each instruction set.
///
/// # Errors
/// The model cannot be loaded or run, or there are no tokens.
pub fn check(
    name: &str,
    model: &Model,
    tokens: &[u32],
    kv_format: KvFormat,
    options: &PortabilityOptions,
) -> Result<Portability, AssessError> {
    let tokens = &tokens[..tokens.len().min(options.tokens).min(model.config.context)];
    let mut runs = Vec::new();
    for isa in Isa::available() {
        for (i, &threads) in options.threads.iter().enumerate() {
            let load = LoadOptions { isa, threads, context: None, kv_format };
            let engine = Engine::load(&model.config, &*model.weights, load, &mut |_, _| {}).of(name)?;
            let feedings = if i + 1 == options.threads.len() { &Feeding::ALL[..] } else { &[Feeding::Whole] };
            for &feeding in feedings {
                let digest = LogitsDigest::of(&feeding.logits(&engine, tokens).of(name)?);
                runs.push(Run { isa: isa.name(), threads, feeding, digest });
            }
        }
    }
    Ok(Portability { tokens: tokens.len(), contract: coffer_kernels::CONTRACT.to_owned(), runs })
}

impl Feeding {
    const ALL: [Feeding; 3] = [Feeding::Whole, Feeding::Cut, Feeding::Batched];

    /// `whole`, `cut`, `batched`.
    pub fn name(self) -> &'static str {
        match self {
            Feeding::Whole => "whole",
            Feeding::Cut => "cut",
            Feeding::Batched => "batched",
        }
    }

    /// Logits of every token, `[tokens, vocab]`.
    pub(crate) fn logits(self, engine: &Engine, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let mut cache = engine.cache(tokens.len())?;
        match self {
            Feeding::Whole => engine.forward(&mut [all(&mut cache, tokens)]),
            Feeding::Cut => {
                let mut logits = Vec::new();
                for piece in uneven(tokens) {
                    logits.extend(engine.forward(&mut [all(&mut cache, piece)])?);
                }
                Ok(logits)
            }
            Feeding::Batched => {
                let (before, after) = (&tokens[tokens.len() / 2..], &tokens[..tokens.len().min(3)]);
                let (mut first, mut last) = (engine.cache(before.len())?, engine.cache(after.len())?);
                let quiet = |cache, tokens| Span { cache, tokens, want: Want::Nothing };
                engine.forward(&mut [quiet(&mut first, before), all(&mut cache, tokens), quiet(&mut last, after)])
            }
        }
    }
}

fn all<'a>(cache: &'a mut KvCache, tokens: &'a [u32]) -> Span<'a> {
    Span { cache, tokens, want: Want::All }
}

/// Pieces of 1, 7, 1, 2, 19 and then 33 tokens.
fn uneven(tokens: &[u32]) -> Vec<&[u32]> {
    let mut pieces = Vec::new();
    let mut rest = tokens;
    let mut lengths = [1, 7, 1, 2, 19].into_iter();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(lengths.next().unwrap_or(33).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        let tokens: Vec<u32> = (0..100).collect();
        assert_eq!(uneven(&tokens).concat(), tokens);
        assert_eq!(uneven(&tokens).iter().map(|p| p.len()).collect::<Vec<_>>(), [1, 7, 1, 2, 19, 33, 33, 4]);
        assert!(uneven(&[]).is_empty());
    }

    #[test]
    fn one_different_digest_is_seen() {
        let run = |x: f32| Run { isa: "scalar", threads: 1, feeding: Feeding::Whole, digest: LogitsDigest::of(&[x]) };
        let p = |runs| Portability { tokens: 1, contract: "1".into(), runs };
        assert!(p(vec![run(1.0), run(1.0)]).equal());
        assert_eq!(p(vec![run(0.0), run(-0.0), run(0.0)]).distinct(), 2);
        assert!(!p(vec![]).equal());
    }
}
