//! What went wrong at a distance, in one sentence, without anything secret in it.

use coffer_seal::place::redact;
use object_store::Error;
use std::{error::Error as _, io};

/// Longest part of a server's answer that is shown.
const SHOWN: usize = 200;

/// Why something remote could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The URL cannot be used.
    #[error("{url}: {why}")]
    Url {
        /// The URL, cleaned.
        url: String,
        /// Why not.
        why: String,
    },
    /// There is nothing of this name.
    #[error("{0}: there is no such object on the server")]
    NotFound(String),
    /// The server wants other credentials.
    #[error("{0}: the server refuses access; credentials come from the environment (docs/remote.md lists the variables)")]
    Denied(String),
    /// Not the object that was opened.
    #[error("{0}: was changed on the server while it was read; start again")]
    Changed(String),
    /// Something else lies there.
    #[error("{url}: {what}")]
    Occupied {
        /// Where.
        url: String,
        /// What lies there, and what to do.
        what: String,
    },
    /// The server or the way to it failed.
    #[error("{url}: {reason}")]
    Server {
        /// Object.
        url: String,
        /// What was answered.
        reason: String,
    },
    /// The local side failed.
    #[error("{path}: {source}")]
    Local {
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl RemoteError {
    /// `error` about the object `url`.
    pub(crate) fn of(url: &str, error: &Error) -> Self {
        let url = redact(url);
        match error {
            Error::NotFound { .. } => Self::NotFound(url),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Self::Denied(url),
            Error::Precondition { .. } => Self::Changed(url),
            other => Self::Server { url, reason: root_cause(other) },
        }
    }

    /// As an error of reading and writing.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::NotFound(_) => io::ErrorKind::NotFound,
            Self::Denied(_) => io::ErrorKind::PermissionDenied,
            Self::Url { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        // Whoever opened the URL names it.
        let text = self.to_string();
        io::Error::new(kind, text.split_once(": ").map_or(text.as_str(), |(_, what)| what))
    }
}

/// What the innermost error says: outer ones repeat it with requests that may be signed.
fn root_cause(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    let text = if ["non-partial response", "Range request not supported"].iter().any(|no| text.contains(no)) {
        "the server does not serve parts of an object".to_owned()
    } else {
        text
    };
    redact(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}
