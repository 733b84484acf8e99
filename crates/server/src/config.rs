//! What a server is told when it starts.

use coffer_engine::Engine;
use coffer_evidence::VariantDigest;
use coffer_model::{ChatTemplate, Tokenizer};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Everything that a server needs to know.
pub struct Config {
    /// What answers.
    pub model: ServedModel,
    /// Who may ask.
    pub access: Access,
    /// Sequences that run at the same time.
    pub slots: usize,
    /// Requests that wait for a slot; further ones are refused with 429.
    pub queue: usize,
    /// Bytes of keys and values that are kept of ended requests, for others with the same API key that begin alike.
    pub kept_prefixes: usize,
    /// Sizes and times.
    pub limits: Limits,
}

/// The model behind the server.
pub struct ServedModel {
    /// Name that clients use.
    pub name: String,
    /// Weights and forward pass.
    pub engine: Arc<Engine>,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Chat template; without one the chat endpoint refuses.
    pub template: Option<ChatTemplate>,
    /// What `system_fingerprint` names, if it was computed.
    pub variant: Option<VariantDigest>,
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Holders of a key in this database (see [`crate::keys`]).
    Keys(PathBuf),
    /// Everyone who can reach the port.
    DangerouslyOpen,
}

/// Sizes and times that bound what a client can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body in bytes, as sent.
    pub body: usize,
    /// Connections open at the same time; further ones wait to be accepted.
    pub connections: usize,
    /// Time for a request's head to arrive; also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// How long a client may take none of the bytes that wait for it.
    pub stall_timeout: Duration,
    /// How long running answers may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            connections: 512,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
