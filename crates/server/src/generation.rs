//! One generation on its way from the engine's thread to a client: tokens in, text out.

use crate::{app::App, error::ApiError, text::TextFilter};
use axum::http::StatusCode;
use coffer_engine::{Event, FinishReason, Owner, Request, SamplingParams, sampling::Choice};
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Tokens that may wait for a client. The engine never waits: a client that is further behind loses its generation.
const BACKLOG: usize = 1024;

/// What to generate.
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) top_logprobs: usize,
    pub(crate) owner: Owner,
}

/// A running generation. Dropping it frees its slot.
pub(crate) struct Generation {
    app: Arc<App>,
    events: mpsc::Receiver<Event>,
    text: TextFilter,
    /// Tokens whose text was not let out yet.
    waiting: VecDeque<Chosen>,
    /// Bytes of text made so far.
    made: usize,
    usage: Usage,
    submitted: Instant,
    ended: bool,
}

/// A token with what may be reported of it.
pub(crate) struct Chosen {
    pub(crate) choice: Choice,
    pub(crate) top: Vec<Choice>,
    /// Where its bytes start in the generated text.
    start: usize,
}

/// A step of a generation.
#[derive(Default)]
pub(crate) struct Piece {
    /// Text that is certain now; may be empty.
    pub(crate) text: String,
    /// The tokens that it starts with.
    pub(crate) tokens: Vec<Chosen>,
    /// Set on the last piece.
    pub(crate) finish: Option<Finish>,
}

/// Why a generation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
}

/// Tokens read and made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    /// Those of the prompt that an earlier request had computed.
    pub(crate) reused: usize,
    pub(crate) completion: usize,
}

impl Generation {
    /// Submits `job`.
    pub(crate) fn start(app: &Arc<App>, job: Job) -> Result<Self, ApiError> {
        let (sender, events) = mpsc::channel(BACKLOG);
        let usage = Usage { prompt: job.prompt.len(), ..Usage::default() };
        let abandoned = app.metrics.abandoned.clone();
        let sink = move |event| match sender.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(Event::Reused(_) | Event::Token { .. })) => {
                abandoned.increment(1);
                false
            }
            Err(TrySendError::Closed(Event::Done(_))) => false,
        };
        app.submit(Request {
            prompt: job.prompt,
            sampling: job.sampling,
            max_tokens: job.max_tokens,
            stop_tokens: app.model.engine.config().eos.clone(),
            top_logprobs: job.top_logprobs,
            owner: job.owner,
            sink: Box::new(sink),
        })?;
        app.metrics.prompt_tokens.increment(usage.prompt as u64);
        Ok(Self {
            app: Arc::clone(app),
            events,
            text: TextFilter::new(&job.stop),
            waiting: VecDeque::new(),
            made: 0,
            usage,
            submitted: Instant::now(),
            ended: false,
        })
    }

    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        while !self.ended {
            let piece = match self.events.recv().await {
                Some(Event::Reused(tokens)) => {
                    self.usage.reused = tokens;
                    self.app.metrics.reused_tokens.increment(tokens as u64);
                    continue;
                }
                Some(Event::Token { choice, top }) => self.token(choice, top),
                Some(Event::Done(FinishReason::Stop)) => self.end(Finish::Stop),
                Some(Event::Done(FinishReason::Length)) => self.end(Finish::Length),
                Some(Event::Done(FinishReason::Error(reason))) => return Err(self.fail(&reason)),
                None => return Err(self.fail("the client read too slowly, or the server is shutting down")),
            };
            if piece.finish.is_some() || !piece.text.is_empty() || !piece.tokens.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    fn token(&mut self, choice: Choice, top: Vec<Choice>) -> Piece {
        if self.usage.completion == 0 {
            self.app.metrics.first_token.record(self.submitted.elapsed());
        }
        self.usage.completion += 1;
        self.app.metrics.completion_tokens.increment(1);
        let bytes = self.app.model.tokenizer.token_bytes(choice.token);
        self.waiting.push_back(Chosen { choice, top, start: self.made });
        self.made += bytes.len();
        let released = self.text.push(&bytes);
        if released.stopped {
            self.close();
        }
        Piece { text: released.text, tokens: self.shown(), finish: released.stopped.then_some(Finish::Stop) }
    }

    fn end(&mut self, finish: Finish) -> Piece {
        self.close();
        let text = self.text.finish();
        let tokens = self.shown().into_iter().chain(self.waiting.drain(..)).collect();
        Piece { text, tokens, finish: Some(finish) }
    }

    /// Takes the waiting tokens of which at least one byte was let out.
    fn shown(&mut self) -> Vec<Chosen> {
        let released = self.text.released();
        let shown = self.waiting.partition_point(|t| t.start < released);
        self.waiting.drain(..shown).collect()
    }

    fn fail(&mut self, reason: &str) -> ApiError {
        self.close();
        let message = format!("the generation was broken off: {reason}");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "generation_cut", message)
    }

    fn close(&mut self) {
        self.ended = true;
        self.events.close();
    }
}

impl Finish {
    /// OpenAI's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
