//! Fitting a prompt into the context.

use crate::{app::App, error::ApiError};
use axum::http::StatusCode;

/// Token ids of `text`. Blocks for as long as a long text takes.
pub(crate) fn encode(app: &App, text: &str, add_special: bool, param: &str) -> Result<Vec<u32>, ApiError> {
    let context = app.model.engine.context();
    let least = text.len() / app.longest_token.max(1);
    if least > context {
        let message = format!("the prompt has at least {least} tokens; the context holds {context}");
        return Err(overflow(message, param));
    }
    app.model.tokenizer.encode(text, add_special).map_err(|e| ApiError::invalid(param, e.to_string()))
}

/// Checks the prompt's ids and the room for the answer; gives the number of tokens to make at most.
pub(crate) fn fit(app: &App, ids: &[u32], wanted: Option<usize>, param: &str) -> Result<usize, ApiError> {
    let (context, vocab) = (app.model.engine.context(), app.model.engine.config().vocab);
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        return Err(ApiError::invalid(param, format!("token {id} is not in the vocabulary of {vocab}")));
    }
    if ids.is_empty() {
        return Err(ApiError::invalid(param, "the prompt is empty and the model has no token that starts a text"));
    }
    let room = context.saturating_sub(ids.len());
    let tokens = wanted.unwrap_or(room);
    if room == 0 || tokens > room {
        let message = format!(
            "the prompt has {} tokens and {} more are asked for; the context holds {context}: shorten the prompt or lower max_tokens",
            ids.len(),
            wanted.unwrap_or(1),
        );
        return Err(overflow(message, param));
    }
    Ok(tokens)
}

fn overflow(message: String, param: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message).about(param)
}
