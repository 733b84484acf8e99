//! The parameters that chat and completions share.

use super::fields::{Fields, wrong};
use crate::{access, app::App, error::ApiError, generation::Job};
use axum::http::{HeaderMap, StatusCode};
use coffer_engine::SamplingParams;
use serde_json::Value;

/// Stop strings in one request.
const STOPS: usize = 4;
/// Bytes of one stop string.
const STOP_BYTES: usize = 1024;

/// Parameters that would change the answer and that this server does not know, each with the values that change nothing.
const UNSUPPORTED: &[(&str, Harmless)] = &[
    ("audio", never),
    ("best_of", one),
    ("echo", off),
    ("frequency_penalty", zero),
    ("function_call", none),
    ("functions", empty),
    ("grammar", empty),
    ("guided_json", never),
    ("guided_regex", never),
    ("ignore_eos", off),
    ("json_schema", never),
    ("logit_bias", empty),
    ("min_p", zero),
    ("min_tokens", zero),
    ("modalities", text_only),
    ("n", one),
    ("prediction", never),
    ("presence_penalty", zero),
    ("reasoning_effort", none),
    ("repeat_penalty", one),
    ("repetition_penalty", one),
    ("response_format", text_format),
    ("structured_outputs", never),
    ("suffix", empty),
    ("tool_choice", none),
    ("tools", empty),
    ("top_k", no_top_k),
    ("typical_p", one),
    ("web_search_options", never),
];

/// Whether a value changes nothing.
type Harmless = fn(&Value) -> bool;

/// How a request wants to be answered.
pub(crate) struct Wishes {
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

impl Wishes {
    /// The work for an answer to `prompt`, on behalf of whoever sent `headers`.
    pub(crate) fn job(&self, prompt: Vec<u32>, max_tokens: usize, top_logprobs: usize, headers: &HeaderMap) -> Job {
        let (sampling, stop) = (self.sampling.clone(), self.stop.clone());
        Job { prompt, sampling, max_tokens, stop, top_logprobs, owner: access::owner(headers) }
    }
}

/// Reads the shared parameters and refuses those that would be ignored at the answer's cost.
pub(crate) fn wishes(fields: &Fields, app: &App) -> Result<Wishes, ApiError> {
    check_model(fields, app)?;
    check_unsupported(fields)?;
    let stream = fields.flag("stream")?;
    Ok(Wishes {
        sampling: SamplingParams {
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
            top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0) as f32,
            seed: seed(fields)?,
        },
        stop: stops(fields)?,
        stream,
        include_usage: include_usage(fields, stream)?,
    })
}

fn check_model(fields: &Fields, app: &App) -> Result<(), ApiError> {
    let served = &app.model.name;
    match fields.text("model")? {
        None => Err(ApiError::invalid("model", format!("`model` is missing; this server has `{served}`"))),
        Some(name) if name == served => Ok(()),
        Some(_) => {
            let message = format!("there is no such model; this server has `{served}`");
            Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model"))
        }
    }
}

fn check_unsupported(fields: &Fields) -> Result<(), ApiError> {
    for (name, harmless) in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !harmless(value)) {
            let message = format!("`{name}` is not supported with this value: leave it out");
            return Err(ApiError::unsupported(name, message));
        }
    }
    Ok(())
}

fn seed(fields: &Fields) -> Result<u64, ApiError> {
    match fields.integer("seed", i64::MIN..=i64::MAX)? {
        Some(seed) => Ok(seed.cast_unsigned()),
        None => getrandom::u64().map_err(ApiError::internal),
    }
}

fn stops(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.get("stop") else { return Ok(Vec::new()) };
    let texts = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) if list.len() <= STOPS => {
            let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| wrong("stop", "a list of strings", v));
            list.iter().map(text).collect::<Result<_, _>>()?
        }
        Value::Array(list) => {
            return Err(ApiError::invalid("stop", format!("`stop` has {} strings; at most {STOPS}", list.len())));
        }
        other => return Err(wrong("stop", "a string or a list of strings", other)),
    };
    match texts.iter().map(String::len).find(|n| !(1..=STOP_BYTES).contains(n)) {
        Some(bytes) => {
            let message = format!("a string in `stop` has {bytes} bytes; it must have 1 to {STOP_BYTES}");
            Err(ApiError::invalid("stop", message))
        }
        None => Ok(texts),
    }
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.get("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream`: true"));
    }
    let options = options.as_object().ok_or_else(|| wrong("stream_options", "an object", options))?;
    Fields::new(options.clone()).flag("include_usage")
}

fn never(_: &Value) -> bool {
    false
}

fn off(value: &Value) -> bool {
    value == false
}

fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn none(value: &Value) -> bool {
    value == "none"
}

fn empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn text_only(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|v| v == "text"))
}

fn text_format(value: &Value) -> bool {
    value.get("type").is_some_and(|kind| kind == "text")
}

fn no_top_k(value: &Value) -> bool {
    matches!(value.as_i64(), Some(0 | -1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn harmless_values_pass_and_others_are_named() {
        let harmless = json!({
            "n": 1, "tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0.0,
            "tool_choice": "none", "echo": false, "suffix": null, "top_k": -1, "modalities": ["text"], "user": "u",
        });
        assert!(check_unsupported(&fields(harmless)).is_ok());
        for (name, value) in [
            ("n", json!(2)),
            ("tools", json!([{}])),
            ("response_format", json!({"type": "json_object"})),
            ("logit_bias", json!({"1": 1})),
            ("presence_penalty", json!(0.5)),
            ("best_of", json!(2)),
            ("echo", json!(true)),
        ] {
            let error = check_unsupported(&fields(json!({name: value}))).unwrap_err();
            assert_eq!(error.json()["error"]["param"], name);
        }
    }

    #[test]
    fn stops_are_bounded() {
        let read = |value: Value| stops(&fields(json!({"stop": value})));
        assert_eq!(read(json!("x")).unwrap(), ["x"]);
        assert_eq!(read(json!(null)).unwrap(), Vec::<String>::new());
        assert_eq!(read(json!(["a", "b"])).unwrap(), ["a", "b"]);
        for bad in [json!(""), json!(["a", ""]), json!([1]), json!(3), json!(["1", "2", "3", "4", "5"]), json!("x".repeat(1025))]
        {
            assert!(read(bad).is_err());
        }
    }

    #[test]
    fn usage_needs_a_stream() {
        let wanted = fields(json!({"stream_options": {"include_usage": true}}));
        assert!(include_usage(&wanted, true).unwrap());
        assert!(include_usage(&wanted, false).is_err());
        assert!(include_usage(&fields(json!({"stream_options": 3})), true).is_err());
    }
}
