//! `POST /v1/completions`: plain continuation, for base models and evaluation.

use super::{
    answer::{Form, answer, answer_id},
    fields::{Fields, wrong},
    prompt,
    sampling::{Wishes, wishes},
    tokens::ids,
};
use crate::{
    app::App,
    error::ApiError,
    generation::{Chosen, Finish, Job},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Alternatives that one token may report.
const LOGPROBS: i64 = 5;
/// Tokens that are made if the request does not say (OpenAI's default).
const MAX_TOKENS: i64 = 16;

/// The handler.
pub(crate) async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let reader = Arc::clone(&app);
    let (job, wishes, logprobs) =
        tokio::task::spawn_blocking(move || read(&reader, &headers, &body)).await.map_err(ApiError::internal)??;
    let form = Completion { app: Arc::clone(&app), logprobs, offset: 0 };
    answer(app, answer_id("cmpl")?, job, &wishes, form).await
}

fn read(app: &App, headers: &HeaderMap, body: &Bytes) -> Result<(Job, Wishes, bool), ApiError> {
    let mut fields = Fields::new(super::object(headers, body)?);
    let wishes = wishes(&fields, app)?;
    let logprobs = fields.integer("logprobs", 0..=LOGPROBS)?;
    let wanted = fields.integer("max_tokens", 1..=i64::MAX)?.unwrap_or(MAX_TOKENS);
    let prompt = prompt(app, fields.take("prompt"))?;
    let max_tokens = prompt::fit(app, &prompt, Some(usize::try_from(wanted).unwrap_or(usize::MAX)), "prompt")?;
    let top_logprobs = usize::try_from(logprobs.unwrap_or(0)).unwrap_or(0);
    Ok((wishes.job(prompt, max_tokens, top_logprobs, headers), wishes, logprobs.is_some()))
}

/// A string, a list of token ids, or a list of one of these. An empty text becomes the token that starts a text.
fn prompt(app: &App, value: Option<Value>) -> Result<Vec<u32>, ApiError> {
    let value = match value {
        Some(Value::Array(mut list)) if matches!(list.first(), Some(Value::String(_) | Value::Array(_))) => {
            if list.len() > 1 {
                let message = format!("`prompt` holds {} prompts; one request takes one", list.len());
                return Err(ApiError::unsupported("prompt", message));
            }
            list.swap_remove(0)
        }
        other => other.unwrap_or_default(),
    };
    let prompt = match &value {
        Value::Null => Vec::new(),
        Value::String(text) => prompt::encode(app, text, true, "prompt")?,
        Value::Array(list) => ids(list, "prompt")?,
        other => return Err(wrong("prompt", "a string or a list of token ids", other)),
    };
    if prompt.is_empty() { Ok(app.model.engine.config().bos.into_iter().collect()) } else { Ok(prompt) }
}

struct Completion {
    app: Arc<App>,
    logprobs: bool,
    /// Characters of the tokens reported so far.
    offset: usize,
}

impl Form for Completion {
    const OBJECTS: [&'static str; 2] = ["text_completion"; 2];

    fn opening(&self) -> Option<Value> {
        None
    }

    fn part(&mut self, text: &str, tokens: &[Chosen]) -> Value {
        self.choice(text, tokens, None)
    }

    fn closing(&self, finish: Finish) -> Value {
        json!({"index": 0, "text": "", "logprobs": null, "finish_reason": finish.as_str()})
    }

    fn whole(&mut self, text: &str, tokens: &[Chosen], finish: Finish) -> Value {
        self.choice(text, tokens, Some(finish))
    }
}

impl Completion {
    fn choice(&mut self, text: &str, tokens: &[Chosen], finish: Option<Finish>) -> Value {
        let logprobs = self.logprobs.then(|| self.logprobs(tokens));
        json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish.map(Finish::as_str)})
    }

    fn logprobs(&mut self, tokens: &[Chosen]) -> Value {
        let tokenizer = &self.app.model.tokenizer;
        let text = |id| tokenizer.token_text(id);
        let top = |t: &Chosen| -> Map<String, Value> { t.top.iter().map(|c| (text(c.token), json!(c.logprob))).collect() };
        let names: Vec<String> = tokens.iter().map(|t| text(t.choice.token)).collect();
        let offsets: Vec<usize> = names
            .iter()
            .map(|name| {
                let at = self.offset;
                self.offset += name.chars().count();
                at
            })
            .collect();
        json!({
            "tokens": names,
            "token_logprobs": tokens.iter().map(|t| t.choice.logprob).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}
