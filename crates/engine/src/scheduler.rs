//! Continuous batching: requests join and leave a running batch. One thread runs the engine; requests come through a
//! line and events go through callbacks, so a caller may be synchronous or asynchronous.

use crate::{Engine, SamplingParams, sampling::Choice};
use batch::Batch;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

mod batch;
mod prefixes;

/// One generation.
pub struct Request {
    /// Prompt, at least one token.
    pub prompt: Vec<u32>,
    /// How to choose.
    pub sampling: SamplingParams,
    /// Tokens to make at most.
    pub max_tokens: usize,
    /// Tokens that end the generation; they are not reported.
    pub stop_tokens: Vec<u32>,
    /// Alternatives to report for each token.
    pub top_logprobs: usize,
    /// Whose request it is: what was computed for one of theirs serves others of theirs that begin alike, and nobody else's, since
    /// how soon an answer comes tells what was asked before.
    pub owner: Owner,
    /// Called on the scheduler's thread with each event, so it must not block; returning `false` cancels the request
    /// and frees its slot. A panic counts as `false`.
    pub sink: Box<dyn FnMut(Event) -> bool + Send>,
}

/// Tells owners of requests apart.
pub type Owner = [u8; 32];

/// What happens to a request, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// So many tokens of the prompt need not run: an earlier request began with them. Comes first, if at all.
    Reused(usize),
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
    /// The prompt cannot be run, the scheduler is shutting down, or memory ran out.
    Error(String),
}

/// Runs requests in a batch of at most `slots` sequences; the rest wait in line, at most `queue` of them.
///
/// Long prompts run in parts between the steps of the others. What a request gets does not depend on who else runs.
pub struct Scheduler {
    line: Arc<Line>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Requests in all that are taken on.
    limit: usize,
}

/// Where requests wait for the thread.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    running: usize,
    closed: bool,
}

impl Scheduler {
    /// Starts the thread. At least one slot is made, and `kept` bytes of keys and values at most are kept for later requests.
    /// If the system has no thread left, every request is refused.
    pub fn start(engine: Arc<Engine>, slots: usize, queue: usize, kept: usize) -> Self {
        let slots = slots.max(1);
        let line = Arc::new(Line::default());
        let work = Work { line: line.clone(), batch: Batch::new(engine, kept), slots };
        let thread = std::thread::Builder::new().name("scheduler".into()).spawn(move || work.run());
        let thread = thread.inspect_err(|e| tracing::error!("no thread for the scheduler: {e}")).ok();
        Self { line, thread: Mutex::new(thread), limit: slots.saturating_add(queue) }
    }
    /// Hands in a request; gives it back if the line is full or closed.
    pub fn submit(&self, request: Request) -> Result<(), Box<Request>> {
        let mut state = self.line.lock();
        if state.closed || state.running + state.waiting.len() >= self.limit {
            return Err(Box::new(request));
        }
        state.waiting.push_back(request);
        self.line.changed.notify_one();
        Ok(())
    }
    /// Sequences running and waiting.
    pub fn load(&self) -> (usize, usize) {
        let state = self.line.lock();
        (state.running, state.waiting.len())
    }
    /// Refuses new requests, ends the waiting ones with an error, finishes the running ones, ends the thread. Returns
    /// when all is done; a second call returns at once. Dropping the scheduler does the same.
    pub fn shutdown(&self) {
        self.line.lock().closed = true;
        self.line.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the scheduler's thread panicked");
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread owns.
struct Work {
    line: Arc<Line>,
    batch: Batch,
    slots: usize,
}

impl Work {
    fn run(mut self) {
        while let Some(requests) = self.next_requests() {
            requests.into_iter().for_each(|request| self.batch.admit(request));
            self.batch.step();
        }
    }

    /// Those who may join the batch now. Waits while there is nothing to do; `None`: all is done.
    fn next_requests(&mut self) -> Option<Vec<Request>> {
        let line = self.line.clone();
        let mut state = line.lock();
        loop {
            if state.closed {
                let refused = std::mem::take(&mut state.waiting);
                state.running = self.batch.len();
                drop(state);
                refused.into_iter().for_each(|request| batch::refuse(request, "shutting down"));
                return (self.batch.len() > 0).then(Vec::new);
            }
            let free = self.slots.saturating_sub(self.batch.len()).min(state.waiting.len());
            let joining: Vec<Request> = state.waiting.drain(..free).collect();
            state.running = self.batch.len() + joining.len();
            if state.running > 0 {
                return Some(joining);
            }
            state = line.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Work {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        let mut state = self.line.lock();
        state.closed = true;
        state.running = 0;
        state.waiting.clear();
    }
}
