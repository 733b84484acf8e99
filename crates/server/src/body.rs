//! Reading a request's body within limits, decrypting it as it arrives.

use crate::{config::Limits, error::ApiError};
use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use coffer_seal::ehbp::{EhbpError, RequestOpener, ResponseSealer};
use http_body_util::BodyExt;
use tokio::time::timeout;

/// A body that arrived whole.
pub(crate) struct Received {
    /// Plaintext; empty if it was not wanted or is too large.
    pub(crate) bytes: Bytes,
    /// Whether it was larger than the limit; it was read to its end and thrown away.
    pub(crate) too_large: bool,
    /// For the answer to an encrypted request, with the nonce in hex.
    pub(crate) sealer: Option<(ResponseSealer, String)>,
}

/// Why there is no body.
pub(crate) enum BodyError {
    /// The client broke off, or took too long, or is too large to be read at all.
    Plain(ApiError),
    /// It could not be decrypted.
    Encrypted(EhbpError),
}

/// Bytes of an unwanted body that are decrypted at most: whoever has no key must not make us hold large frames.
const UNWANTED: u64 = 1 << 20;

/// Reads `body`. If `wanted` is false, or once it has grown past the limit, bytes are still read (a client that writes all
/// before it reads would not see the answer otherwise) and decrypted (or the answer could not be encrypted), but not kept.
pub(crate) async fn receive(
    body: Body,
    headers: &HeaderMap,
    opener: Option<RequestOpener>,
    wanted: bool,
    limits: &Limits,
) -> Result<Received, BodyError> {
    let asks_first = headers.contains_key(header::EXPECT);
    if asks_first && content_length(headers).is_some_and(|n| n > limits.body as u64) {
        return Err(BodyError::Plain(too_large(limits.body)));
    }
    match timeout(limits.body_timeout, collect(body, opener, wanted, limits.body)).await {
        Ok(received) => received,
        Err(_) => {
            let seconds = limits.body_timeout.as_secs_f32();
            let message = format!("the request's body did not arrive within {seconds} seconds");
            Err(BodyError::Plain(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)))
        }
    }
}

/// 413.
pub(crate) fn too_large(limit: usize) -> ApiError {
    let message = format!("the request's body is larger than {limit} bytes: send a shorter one");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

async fn collect(mut body: Body, mut opener: Option<RequestOpener>, wanted: bool, limit: usize) -> Result<Received, BodyError> {
    let mut bytes = Vec::new();
    let mut arrived = 0u64;
    while let Some(frame) = body.frame().await {
        let broken = |_| BodyError::Plain(ApiError::new(StatusCode::BAD_REQUEST, "body_cut", "the request's body broke off"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        arrived = arrived.saturating_add(data.len() as u64);
        if !wanted && arrived > UNWANTED {
            opener = None;
        }
        let opened = opener.as_mut().map(|o| o.push(&data)).transpose().map_err(BodyError::Encrypted)?;
        if wanted && arrived <= limit as u64 {
            bytes.extend_from_slice(opened.as_deref().unwrap_or(&data));
        } else {
            bytes = Vec::new();
        }
    }
    // Without a body the request is plain (SPEC.md, section 7.4): nothing proves who chose the key.
    let opener = opener.filter(|_| arrived > 0);
    let sealer = opener.map(RequestOpener::finish).transpose().map_err(BodyError::Encrypted)?;
    Ok(Received { bytes: bytes.into(), too_large: arrived > limit as u64, sealer })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
