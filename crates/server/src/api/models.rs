//! `GET /v1/models` and `GET /v1/models/{id}`.

use crate::{
    app::App,
    error::{ApiError, json_response},
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, &json!({"object": "list", "data": [model(&app)]}))
}

pub(crate) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    if id == app.model.name {
        return Ok(json_response(StatusCode::OK, &model(&app)));
    }
    let message = format!("there is no such model; this server has `{}`", app.model.name);
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model"))
}

/// OpenAI's fields, and the context length under the name that vLLM gave it.
fn model(app: &App) -> Value {
    json!({
        "id": app.model.name,
        "object": "model",
        "created": app.started,
        "owned_by": "coffer",
        "max_model_len": app.model.engine.context(),
    })
}
