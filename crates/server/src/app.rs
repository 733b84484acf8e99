//! What all requests share.

use crate::{
    access::Gate,
    config::{Config, Limits, ServedModel},
    error::ApiError,
    keys::KeyError,
    metrics::Metrics,
};
use axum::http::StatusCode;
use coffer_engine::{Request, Scheduler};
use coffer_seal::ehbp::ServerKey;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A running server's state.
pub(crate) struct App {
    pub(crate) model: ServedModel,
    pub(crate) fingerprint: Option<String>,
    /// Bytes of the longest token: what a context can hold at most.
    pub(crate) longest_token: usize,
    pub(crate) gate: Gate,
    pub(crate) ehbp: ServerKey,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) started: u64,
    pub(crate) scheduler: Scheduler,
}

impl App {
    pub(crate) async fn new(config: Config) -> Result<Arc<Self>, KeyError> {
        let gate = Gate::new(&config.access).await?;
        let scheduler = Scheduler::start(Arc::clone(&config.model.engine), config.slots, config.queue, config.kept_prefixes);
        let fingerprint = config.model.variant.map(|digest| digest.fingerprint());
        Ok(Arc::new(Self {
            longest_token: longest_token(&config.model.tokenizer),
            fingerprint,
            gate,
            ehbp: ServerKey::generate(),
            metrics: Metrics::new(),
            limits: config.limits,
            started: unix_time(),
            model: config.model,
            scheduler,
        }))
    }

    /// Hands a request to the engine.
    pub(crate) fn submit(&self, request: Request) -> Result<(), ApiError> {
        self.scheduler.submit(request).map_err(|_| {
            let (running, waiting) = self.scheduler.load();
            let message = format!("all places are taken ({running} requests run, {waiting} wait): try again later");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
        })
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn longest_token(tokenizer: &coffer_model::Tokenizer) -> usize {
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    ids.map(|id| tokenizer.token_bytes(id).len().max(tokenizer.token(id).map_or(0, |t| t.len()))).max().unwrap_or(1)
}
