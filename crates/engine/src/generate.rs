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
    /// What has run: the tokens in the cache.
    run: Vec<u32>,
    /// What the next step runs; empty after an error.
    next: Vec<u32>,
}

impl Engine {
    /// Starts a generation after `prompt`.
    ///
    /// # Errors
    /// The prompt is empty or longer than the context.
    pub fn generate(&self, prompt: &[u32], sampling: SamplingParams) -> Result<Generation<'_>, EngineError> {
        let (cache, sampler) = (self.cache(self.context())?, Sampler::new(sampling));
        let mut generation = Generation { engine: self, cache, sampler, run: Vec::new(), next: Vec::new() };
        generation.restart(prompt)?;
        Ok(generation)
    }
}

impl Generation<'_> {
    /// Goes on after another prompt. What follows is what would follow it from the start, to the bit; what it has in common with the
    /// tokens before is not run again.
    ///
    /// # Errors
    /// The prompt is empty or longer than the context; the generation then is as it was.
    pub fn restart(&mut self, prompt: &[u32]) -> Result<(), EngineError> {
        let (wanted, context) = (prompt.len(), self.cache.capacity());
        let Some(before_last) = wanted.checked_sub(1) else { return Err(EngineError::NoTokens) };
        if wanted > context {
            return Err(EngineError::Context { wanted, context });
        }
        // The last token runs in any case: its logits are wanted.
        let common = self.run.iter().zip(prompt).take(before_last).take_while(|(a, b)| a == b).count();
        self.cache.truncate(common);
        self.run.truncate(common);
        self.next = prompt[common..].to_vec();
        Ok(())
    }

    /// Tokens that the next step runs: after a prompt those that are not in the cache yet.
    pub fn pending(&self) -> usize {
        self.next.len()
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
            self.run.extend(tokens);
            let choice = self.sampler.choose(&logits, self.cache.len() as u64);
            self.next.push(choice.token);
            choice
        }))
    }
}
