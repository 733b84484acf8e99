//! The sequences that run together, and one step of them all.

use super::prefixes::Prefixes;
use super::{Event, FinishReason, Request};
use crate::{Engine, EngineError, KvCache, Sampler, Span, Want};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Tokens of prompts in a step, while others wait for their next token and while nobody does.
const PROMPT_BESIDE_OTHERS: usize = 128;
const PROMPT_ALONE: usize = 512;

/// Sequences in the order in which they came.
pub(super) struct Batch {
    engine: Arc<Engine>,
    sequences: Vec<Sequence>,
    /// Absent where nothing is kept.
    prefixes: Option<Prefixes>,
}

struct Sequence {
    request: Request,
    sampler: Sampler,
    cache: KvCache,
    /// What has run, if it is to be kept: the tokens in the cache.
    run: Option<Vec<u32>>,
    /// What the next steps run: the rest of the prompt, or the last token made.
    pending: Vec<u32>,
    made: usize,
    ended: bool,
}

/// Ends a request that cannot run.
pub(super) fn refuse(mut request: Request, reason: &str) {
    tell(&mut request, Event::Done(FinishReason::Error(reason.to_owned())));
}

impl Batch {
    pub(super) fn new(engine: Arc<Engine>, kept: usize) -> Self {
        Self { engine, sequences: Vec::new(), prefixes: (kept > 0).then(|| Prefixes::new(kept)) }
    }

    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Takes a request in, or ends it at once if it cannot run.
    pub(super) fn admit(&mut self, mut request: Request) {
        match self.prepare(&request) {
            Err(e) => refuse(request, &e.to_string()),
            Ok(_) if request.max_tokens == 0 => _ = tell(&mut request, Event::Done(FinishReason::Length)),
            Ok(cache) => {
                let (mut run, sampler) = (std::mem::take(&mut request.prompt), Sampler::new(request.sampling.clone()));
                let reused = self.prefixes.as_mut().and_then(|p| p.find(request.owner, &run, cache.capacity()));
                let cache = reused.unwrap_or(cache);
                if !cache.is_empty() && !tell(&mut request, Event::Reused(cache.len())) {
                    return;
                }
                let pending = run.split_off(cache.len());
                let run = self.prefixes.is_some().then_some(run);
                self.sequences.push(Sequence { request, sampler, cache, run, pending, made: 0, ended: false });
            }
        }
    }

    fn prepare(&self, request: &Request) -> Result<KvCache, EngineError> {
        let (vocab, context) = (self.engine.config().vocab, self.engine.context());
        if request.prompt.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&token) = request.prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(EngineError::Token { token, vocab });
        }
        if request.prompt.len() > context {
            return Err(EngineError::Context { wanted: request.prompt.len(), context });
        }
        self.engine.cache(request.prompt.len().saturating_add(request.max_tokens).min(context))
    }

    /// Runs the next tokens of every sequence, and those of prompts as far as their share goes; then lets go of those
    /// that ended.
    pub(super) fn step(&mut self) {
        let mut share = if self.sequences.iter().any(|s| s.made > 0) { PROMPT_BESIDE_OTHERS } else { PROMPT_ALONE };
        let mut running: Vec<(&mut Sequence, usize)> = Vec::new();
        for sequence in &mut self.sequences {
            let tokens = if sequence.made > 0 { 1 } else { sequence.pending.len().min(share) };
            share -= if sequence.made > 0 { 0 } else { tokens };
            if tokens > 0 {
                running.push((sequence, tokens));
            }
        }
        if run(&self.engine, &mut running).is_err() {
            // Each for itself: what ails one must not end the others.
            for alone in running.chunks_mut(1) {
                if let Err(e) = run(&self.engine, alone) {
                    alone.iter_mut().for_each(|(sequence, _)| sequence.end(FinishReason::Error(e.to_string())));
                }
            }
        }
        // A prompt is kept as soon as it has run, since others may begin like it, and again with its answer.
        for sequence in self.sequences.iter().filter(|s| s.made == 1 || s.ended) {
            if let (Some(prefixes), Some(run)) = (&mut self.prefixes, &sequence.run) {
                prefixes.keep(sequence.request.owner, run, &sequence.cache);
            }
        }
        self.sequences.retain(|s| !s.ended);
    }
}

/// Runs so many tokens of each sequence and reports what they made.
fn run(engine: &Engine, running: &mut [(&mut Sequence, usize)]) -> Result<(), EngineError> {
    let spans = running.iter_mut().map(|(s, tokens)| {
        let want = if *tokens == s.pending.len() { Want::Last } else { Want::Nothing };
        Span { cache: &mut s.cache, tokens: &s.pending[..*tokens], want }
    });
    let logits = engine.forward(&mut spans.collect::<Vec<_>>())?;
    let mut rows = logits.chunks_exact(engine.config().vocab);
    for (sequence, tokens) in running {
        if let Some(run) = &mut sequence.run {
            run.extend_from_slice(&sequence.pending[..*tokens]);
        }
        sequence.pending.drain(..*tokens);
        if sequence.pending.is_empty() {
            rows.next().into_iter().for_each(|row| sequence.extend(row));
        }
    }
    Ok(())
}

impl Sequence {
    /// Chooses the next token and reports it.
    fn extend(&mut self, logits: &[f32]) {
        let position = self.cache.len();
        let (choice, top) = self.sampler.choose_and_rank(logits, position as u64, self.request.top_logprobs);
        if self.request.stop_tokens.contains(&choice.token) {
            return self.end(FinishReason::Stop);
        }
        self.made += 1;
        self.pending.push(choice.token);
        if !tell(&mut self.request, Event::Token { choice, top }) {
            self.ended = true;
        } else if self.made == self.request.max_tokens || position == self.cache.capacity() {
            self.end(FinishReason::Length);
        }
    }

    fn end(&mut self, reason: FinishReason) {
        tell(&mut self.request, Event::Done(reason));
        self.ended = true;
    }
}

/// Hands `event` to the sink; `false`: nobody listens any more.
fn tell(request: &mut Request, event: Event) -> bool {
    catch_unwind(AssertUnwindSafe(|| (request.sink)(event))).unwrap_or(false)
}
