//! Who may ask: the `Authorization: Bearer` header against the key database.

use crate::{config::Access, error::ApiError, keys::KeyError, keys::KeyStore};
use axum::http::{HeaderMap, StatusCode, header};
use coffer_engine::Owner;
use sha2::{Digest, Sha256};

/// Paths that answer without a key: they tell nothing about the model or its users.
const PUBLIC: [&str; 2] = ["/health", coffer_seal::ehbp::KEYS_PATH];

/// The door.
pub(crate) enum Gate {
    Keys(KeyStore),
    Open,
}

impl Gate {
    pub(crate) async fn new(access: &Access) -> Result<Self, KeyError> {
        Ok(match access {
            Access::Keys(path) => Self::Keys(KeyStore::open(path).await?),
            Access::DangerouslyOpen => Self::Open,
        })
    }

    /// Lets a request pass, or says why not. Asks the database each time, so that a revoked key is dead at once.
    pub(crate) async fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let Self::Keys(store) = self else { return Ok(()) };
        if PUBLIC.contains(&path) {
            return Ok(());
        }
        let Some(key) = bearer(headers) else {
            return Err(refusal("missing_api_key", "no API key: send the header `Authorization: Bearer KEY`"));
        };
        match store.admits(key).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refusal("invalid_api_key", "the API key is unknown or was revoked")),
            Err(e) => Err(ApiError::internal(e)),
        }
    }
}

/// Tells those who ask apart by their keys. Behind an open door all are one, unless they send keys.
pub(crate) fn owner(headers: &HeaderMap) -> Owner {
    Sha256::digest(bearer(headers).unwrap_or_default()).into()
}

fn refusal(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, message)
}

/// The credentials of RFC 6750, section 2.1; the scheme's name has no case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bearer_headers_only() {
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(read("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(read("Basic abc"), None);
        assert_eq!(read("Bearer"), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
