//! Continuous batching: requests join and leave a running batch. One thread owns the engine; requests come and
//! events go through channels, so a caller may be synchronous or asynchronous.

use crate::{Engine, SamplingParams, sampling::Choice};
use std::sync::Arc;

/// One generation.
pub struct Request {
    /// Prompt, at least one token.
    pub prompt: Vec<u32>,
    /// How to choose.
    pub sampling: SamplingParams,
    /// Tokens to make at most.
    pub max_tokens: usize,
    /// Tokens that end the generation.
    pub stop_tokens: Vec<u32>,
    /// Alternatives to report for each token.
    pub top_logprobs: usize,
    /// Called on the scheduler's thread with each event; returning `false` cancels the request and frees its slot.
    pub sink: Box<dyn FnMut(Event) -> bool + Send>,
}

/// What happens to a request, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was made.
    Token {
        /// The token and its log probability.
        choice: Choice,
        /// The most likely tokens, if asked for.
        top: Vec<Choice>,
    },
    /// The generation ended; nothing follows.
    Done(FinishReason),
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The scheduler is shutting down or the engine failed.
    Error(String),
}

/// Runs requests in a batch of at most `slots` sequences; the rest wait in line, at most `queue` of them.
pub struct Scheduler;

impl Scheduler {
    /// Starts the thread.
    pub fn start(engine: Arc<Engine>, slots: usize, queue: usize) -> Self {
        let _ = (engine, slots, queue);
        todo!()
    }
    /// Hands in a request; gives it back if the line is full.
    #[expect(clippy::result_large_err, reason = "the request is handed back to be retried")]
    pub fn submit(&self, request: Request) -> Result<(), Request> {
        let _ = request;
        todo!()
    }
    /// Sequences running and waiting.
    pub fn load(&self) -> (usize, usize) {
        todo!()
    }
    /// Refuses new requests, finishes the running ones, ends the thread.
    pub fn shutdown(self) {
        todo!()
    }
}
