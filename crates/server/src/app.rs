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
    sync::{Arc, RwLock},
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
    scheduler: RwLock<Option<Scheduler>>,
}

impl App {
    pub(crate) async fn new(config: Config) -> Result<Arc<Self>, KeyError> {
        let gate = Gate::new(&config.access).await?;
        let scheduler = Scheduler::start(Arc::clone(&config.model.engine), config.slots.max(1), config.queue);
        let fingerprint = config.model.variant.map(|digest| format!("fp_{}", hex::encode(&digest.0[..8])));
        Ok(Arc::new(Self {
            longest_token: longest_token(&config.model.tokenizer),
            fingerprint,
            gate,
            ehbp: ServerKey::generate(),
            metrics: Metrics::new(),
            limits: config.limits,
            started: unix_time(),
            model: config.model,
            scheduler: RwLock::new(Some(scheduler)),
        }))
    }

    /// Hands a request to the engine.
    pub(crate) fn submit(&self, request: Request) -> Result<(), ApiError> {
        let scheduler = self.scheduler.read().unwrap_or_else(|e| e.into_inner());
        let Some(scheduler) = scheduler.as_ref() else {
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down"));
        };
        scheduler.submit(request).map_err(|_| {
            let (_, waiting) = scheduler.load();
            let message = format!("the queue is full ({waiting} requests are waiting): try again later");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
        })
    }

    /// Sequences running and waiting.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.scheduler.read().unwrap_or_else(|e| e.into_inner()).as_ref().map_or((0, 0), Scheduler::load)
    }

    /// Ends the engine's thread; blocks until it did.
    pub(crate) fn stop(&self) {
        let scheduler = self.scheduler.write().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(scheduler) = scheduler {
            scheduler.shutdown();
        }
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
