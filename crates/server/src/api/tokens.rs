//! `POST /tokenize` and `POST /detokenize`, in the form of llama.cpp's server.

use super::{
    fields::{Fields, wrong},
    prompt,
};
use crate::{
    app::App,
    error::{ApiError, json_response},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

/// `{"content": text, "add_special": false}` to `{"tokens": [ids]}`.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let work = move || {
        let fields = Fields::new(super::object(&headers, &body)?);
        let text = fields.text("content")?.ok_or_else(|| ApiError::invalid("content", "`content` is missing"))?;
        prompt::encode(&app, text, fields.flag("add_special")?, "content")
    };
    let tokens = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??;
    Ok(json_response(StatusCode::OK, &json!({"tokens": tokens})))
}

/// `{"tokens": [ids]}` to `{"content": text}`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let fields = Fields::new(super::object(&headers, &body)?);
    let tokens = match fields.get("tokens") {
        Some(Value::Array(list)) => ids(list, "tokens")?,
        other => return Err(wrong("tokens", "a list of token ids", other.unwrap_or(&Value::Null))),
    };
    Ok(json_response(StatusCode::OK, &json!({"content": app.model.tokenizer.decode(&tokens)})))
}

/// Token ids from JSON.
pub(crate) fn ids(list: &[Value], param: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(i, v): (usize, &Value)| {
        let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
        id.ok_or_else(|| wrong(&format!("{param}[{i}]"), "a token id", v))
    };
    list.iter().enumerate().map(id).collect()
}
