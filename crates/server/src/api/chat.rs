//! `POST /v1/chat/completions`.

use super::{
    answer::{Form, answer, answer_id},
    fields::{Fields, wrong},
    prompt,
    sampling::{Wishes, wishes},
};
use crate::{
    app::App,
    error::ApiError,
    generation::{Chosen, Finish, Job},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use coffer_engine::sampling::Choice;
use coffer_model::{Message, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;

/// Alternatives that one token may report.
const TOP_LOGPROBS: i64 = 20;

/// The handler.
pub(crate) async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let reader = Arc::clone(&app);
    let (job, wishes, logprobs) =
        tokio::task::spawn_blocking(move || read(&reader, &headers, &body)).await.map_err(ApiError::internal)??;
    let form = Chat { app: Arc::clone(&app), logprobs };
    answer(app, answer_id("chatcmpl")?, job, &wishes, form).await
}

fn read(app: &App, headers: &HeaderMap, body: &Bytes) -> Result<(Job, Wishes, bool), ApiError> {
    let mut fields = Fields::new(super::object(headers, body)?);
    let wishes = wishes(&fields, app)?;
    let logprobs = fields.flag("logprobs")?;
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !logprobs {
        return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs`: true"));
    }
    let wanted = match fields.integer("max_completion_tokens", 1..=i64::MAX)? {
        Some(n) => Some(n),
        None => fields.integer("max_tokens", 1..=i64::MAX)?,
    };
    let Some(template) = &app.model.template else {
        let message = "the model has no chat template: use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    };
    let messages = messages(fields.take("messages"))?;
    let text = template.render(&messages, true).map_err(|e| ApiError::invalid("messages", e.to_string()))?;
    let prompt = prompt::encode(app, &text, false, "messages")?;
    let wanted = wanted.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let max_tokens = prompt::fit(app, &prompt, wanted, "messages")?;
    let top_logprobs = usize::try_from(top).unwrap_or(0);
    Ok((wishes.job(prompt, max_tokens, top_logprobs, headers), wishes, logprobs))
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    match value {
        Some(Value::Array(list)) if !list.is_empty() => list.iter().enumerate().map(|(i, v)| message(i, v)).collect(),
        Some(Value::Array(_)) => Err(ApiError::invalid("messages", "`messages` is empty: at least one is needed")),
        Some(other) => Err(wrong("messages", "a list of messages", &other)),
        None => Err(ApiError::invalid("messages", "`messages` is missing")),
    }
}

fn message(i: usize, value: &Value) -> Result<Message, ApiError> {
    let at = format!("messages[{i}]");
    let Some(fields) = value.as_object() else { return Err(wrong(&at, "an object", value)) };
    let role = match fields.get("role").and_then(Value::as_str) {
        // OpenAI's newer name of the same thing.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        _ => {
            let message = "the role must be `system`, `developer`, `user` or `assistant`; tools are not supported";
            return Err(ApiError::invalid(format!("{at}.role"), message));
        }
    };
    for name in ["tool_calls", "function_call", "audio"] {
        if fields.get(name).is_some_and(|v| !v.is_null() && *v != json!([])) {
            let message = format!("`{name}` in a message is not supported");
            return Err(ApiError::unsupported(&format!("{at}.{name}"), message));
        }
    }
    let content = content(&format!("{at}.content"), fields.get("content").unwrap_or(&Value::Null))?;
    Ok(Message { role: role.into(), content })
}

/// A string, or parts of text, which become lines.
fn content(at: &str, value: &Value) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(at, "a string or a list of parts", other)),
    };
    let text = |(i, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some("text"), None) => Err(wrong(&format!("{at}[{i}].text"), "a string", &part["text"])),
        _ => Err(ApiError::unsupported(&format!("{at}[{i}].type"), "only parts of type `text` are supported")),
    };
    Ok(parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

struct Chat {
    app: Arc<App>,
    logprobs: bool,
}

impl Form for Chat {
    const OBJECTS: [&'static str; 2] = ["chat.completion", "chat.completion.chunk"];

    fn opening(&self) -> Option<Value> {
        Some(self.choice("delta", json!({"role": "assistant", "content": ""}), None, None))
    }

    fn part(&mut self, text: &str, tokens: &[Chosen]) -> Value {
        self.choice("delta", json!({"content": text}), Some(tokens), None)
    }

    fn closing(&self, finish: Finish) -> Value {
        self.choice("delta", json!({}), None, Some(finish))
    }

    fn whole(&mut self, text: &str, tokens: &[Chosen], finish: Finish) -> Value {
        let message = json!({"role": "assistant", "content": text, "refusal": null});
        self.choice("message", message, Some(tokens), Some(finish))
    }
}

impl Chat {
    fn choice(&self, kind: &str, message: Value, tokens: Option<&[Chosen]>, finish: Option<Finish>) -> Value {
        let logprobs = tokens.filter(|_| self.logprobs).map(|tokens| {
            let content: Vec<Value> = tokens.iter().map(|t| self.token(t)).collect();
            json!({"content": content, "refusal": null})
        });
        json!({"index": 0, kind: message, "logprobs": logprobs, "finish_reason": finish.map(Finish::as_str)})
    }

    fn token(&self, token: &Chosen) -> Value {
        let tokenizer = &self.app.model.tokenizer;
        let mut value = alternative(tokenizer, token.choice);
        value["top_logprobs"] = token.top.iter().map(|c| alternative(tokenizer, *c)).collect();
        value
    }
}

fn alternative(tokenizer: &Tokenizer, choice: Choice) -> Value {
    let bytes = tokenizer.token_bytes(choice.token);
    let bytes = (!bytes.is_empty()).then_some(bytes);
    json!({"token": tokenizer.token_text(choice.token), "logprob": choice.logprob, "bytes": bytes})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_strings_and_parts() {
        let parts = json!([{"role": "developer", "content": "a"}, {"role": "user", "content": [
            {"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}]);
        let read = messages(Some(parts)).unwrap();
        let pairs: Vec<_> = read.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(pairs, [("system", "a"), ("user", "b\nc")]);
    }

    #[test]
    fn malformed_messages_are_named() {
        for (value, param) in [
            (json!("hello"), "messages"),
            (json!([]), "messages"),
            (json!([3]), "messages[0]"),
            (json!([{"content": "a"}]), "messages[0].role"),
            (json!([{"role": "tool", "content": "a"}]), "messages[0].role"),
            (json!([{"role": "user", "content": "a"}, {"role": "user"}]), "messages[1].content"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].type"),
            (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
            (json!([{"role": "user", "content": ["a"]}]), "messages[0].content[0].type"),
            (json!([{"role": "assistant", "content": "", "tool_calls": [{}]}]), "messages[0].tool_calls"),
        ] {
            assert_eq!(messages(Some(value)).unwrap_err().json()["error"]["param"], param);
        }
        assert!(messages(None).is_err());
    }
}
