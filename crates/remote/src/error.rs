//! What went wrong at a distance, in one sentence, without anything secret in it.

use coffer_seal::place::redact;
use object_store::Error;
use std::{error::Error as _, io};

/// Longest part of a server's answer that is shown.
const SHOWN: usize = 200;

/// Something remote that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {failure}")]
pub struct RemoteError {
    /// The URL, cleaned; or the local file.
    pub at: String,
    /// What went wrong with it.
    pub failure: Failure,
}

/// Why it could not be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The URL cannot be used: why not.
    #[error("{0}")]
    Url(String),
    /// There is nothing of this name.
    #[error("there is no such object on the server")]
    NotFound,
    /// The server wants other credentials.
    #[error("the server refuses access; credentials come from the environment (docs/remote.md lists the variables)")]
    Denied,
    /// Not the object that was opened.
    #[error("was changed on the server while it was read; start again")]
    Changed,
    /// Something else lies there: what, and what to do.
    #[error("{0}")]
    Occupied(String),
    /// The server or the way to it failed: what was answered.
    #[error("{0}")]
    Server(String),
    /// The local side failed.
    #[error("{0}")]
    Local(io::Error),
}

impl RemoteError {
    /// `error` about the object `url`.
    pub(crate) fn of(url: &str, error: &Error) -> Self {
        let failure = match error {
            Error::NotFound { .. } => Failure::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Failure::Denied,
            Error::Precondition { .. } => Failure::Changed,
            other => Failure::Server(root_cause(other)),
        };
        Self { at: redact(url), failure }
    }

    /// As an error of reading and writing, which whoever opened the URL puts its name before.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match self.failure {
            Failure::NotFound => io::ErrorKind::NotFound,
            Failure::Denied => io::ErrorKind::PermissionDenied,
            Failure::Url(_) => io::ErrorKind::InvalidInput,
            Failure::Local(error) => return error,
            Failure::Changed | Failure::Occupied(_) | Failure::Server(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, self.failure)
    }
}

impl Failure {
    /// As what went wrong `at` a URL or file.
    pub(crate) fn at(self, at: impl Into<String>) -> RemoteError {
        RemoteError { at: at.into(), failure: self }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_an_io_error_it_says_what_and_not_where() {
        let error = Failure::Server("500: try later".into()).at("s3://bucket/x");
        assert_eq!(error.to_string(), "s3://bucket/x: 500: try later");
        let error = error.into_io();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::Other, "500: try later"));
        assert!(matches!(error.downcast(), Ok(Failure::Server(_))));
        assert_eq!(Failure::NotFound.at("https://host/x").into_io().kind(), io::ErrorKind::NotFound);
        let local = io::Error::new(io::ErrorKind::StorageFull, "no space");
        assert_eq!(Failure::Local(local).at("/x").into_io().kind(), io::ErrorKind::StorageFull);
    }
}
