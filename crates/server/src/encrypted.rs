//! EHBP on the server's side: key configuration, sealed answers, refusals (SPEC.md, section 5.2).

use crate::error::ApiError;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use coffer_seal::ehbp::{
    ENCAPSULATED_KEY, EhbpError, KEYS_TYPE, PROBLEM_TYPE, RESPONSE_NONCE, RequestOpener, ResponseSealer, ServerKey,
    WRONG_KEY_PROBLEM,
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;

/// Plaintext bytes in one frame at most: peers bound the frames that they accept.
const FRAME: usize = 64 << 10;

/// The answer to a question for the key configuration.
pub(crate) fn key_config(key: &ServerKey) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(KEYS_TYPE))], key.config()).into_response()
}

/// Starts to decrypt, if the request says that it is encrypted.
pub(crate) fn opener(key: &ServerKey, headers: &HeaderMap) -> Result<Option<RequestOpener>, EhbpError> {
    let mut values = headers.get_all(ENCAPSULATED_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| EhbpError::Malformed("the encapsulated key is not hex".into()))?;
            key.open(text).map(Some)
        }
        (Some(_), Some(_)) => Err(EhbpError::Malformed("the encapsulated key is given twice".into())),
    }
}

/// Encrypts the body of `response` piece by piece, as it is made.
pub(crate) fn seal(response: Response, sealer: ResponseSealer, nonce: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(nonce) = HeaderValue::from_str(nonce) else {
        return ApiError::internal("EHBP nonce is not a header value").into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(RESPONSE_NONCE, nonce);
    let frames = stream::unfold((body, sealer), |(mut body, mut sealer)| async {
        let data = loop {
            match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => break data,
                    _ => continue,
                },
                Err(e) => return Some((Err(e), (Body::empty(), sealer))),
            }
        };
        let sealed = seal_piece(&mut sealer, &data).map_err(axum::Error::new);
        let rest = if sealed.is_ok() { body } else { Body::empty() };
        Some((sealed, (rest, sealer)))
    });
    Response::from_parts(parts, Body::from_stream(frames.fuse()))
}

/// The answer to a body that could not be decrypted. It says no more than the protocol allows.
pub(crate) fn refuse(error: &EhbpError) -> Response {
    tracing::warn!(%error, "a body could not be decrypted");
    if *error == EhbpError::WrongKey {
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE))];
        return (StatusCode::UNPROCESSABLE_ENTITY, kind, WRONG_KEY_PROBLEM).into_response();
    }
    let message = "the encrypted body is malformed or was changed on its way";
    ApiError::new(StatusCode::BAD_REQUEST, "encrypted_body", message).into_response()
}

fn seal_piece(sealer: &mut ResponseSealer, data: &Bytes) -> Result<Bytes, EhbpError> {
    let mut sealed = Vec::with_capacity(data.len() + 32);
    for piece in data.chunks(FRAME) {
        sealed.extend_from_slice(&sealer.seal(piece)?);
    }
    Ok(sealed.into())
}
