//! Generation of one sequence without a scheduler.

use crate::{Choice, Engine, EngineError, KvCache, Sampler, SamplingParams, Span, Want};

/// The tokens that follow a prompt, one at a time, without end until the context is full: the caller takes as many as
/// it wants, stops at the tokens that it takes for an end, and measures what it likes. The first step runs the prompt.
///
/// After an error the iterator is exhausted.
pub struct Generation<'a> {
    engine: &'a Engine,
    cache: KvCache,
    sampler: Sampler,
    /// What the next step runs; empty after an error.
    next: Vec<u32>,
}

impl Engine {
    /// Starts a generation after `prompt`.
    ///
    /// # Errors
    /// The prompt is empty or longer than the context.
    pub fn generate(&self, prompt: &[u32], sampling: SamplingParams) -> Result<Generation<'_>, EngineError> {
        let (wanted, context) = (prompt.len(), self.context());
        if prompt.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if wanted > context {
            return Err(EngineError::Context { wanted, context });
        }
        let sampler = Sampler::new(sampling);
        Ok(Generation { engine: self, cache: self.cache(context)?, sampler, next: prompt.to_vec() })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Choice, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let tokens = std::mem::take(&mut self.next);
        if tokens.is_empty() || self.cache.len() + tokens.len() > self.cache.capacity() {
            return None;
        }
        let step = self.engine.forward(&mut [Span { cache: &mut self.cache, tokens: &tokens, want: Want::Last }]);
        Some(step.map(|logits| {
            let choice = self.sampler.choose(&logits, self.cache.len() as u64);
            self.next.push(choice.token);
            choice
        }))
    }
}
