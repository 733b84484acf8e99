//! `/v1/completions`, and the small endpoints.

use crate::harness::{MODEL, PROMPT, host};
use serde_json::{Value, json};

fn body(more: Value) -> Value {
    let mut body = json!({"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 8});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_prompt_is_text_or_tokens() {
    let host = host();
    let text = host.post("/v1/completions", &body(json!({}))).json();
    assert_eq!(text["object"], "text_completion");
    let wanted = &text["choices"][0]["text"];
    assert!(!wanted.as_str().unwrap().is_empty());

    let tokens = host.post("/tokenize", &json!({"content": PROMPT})).json()["tokens"].clone();
    assert_eq!(host.post("/detokenize", &json!({"tokens": tokens})).json()["content"], PROMPT);
    assert_eq!(text["usage"]["prompt_tokens"], tokens.as_array().unwrap().len());
    for prompt in [tokens.clone(), json!([tokens]), json!([PROMPT])] {
        let answer = host.post("/v1/completions", &body(json!({"prompt": prompt}))).json();
        assert_eq!(&answer["choices"][0]["text"], wanted);
    }
    // The demo model starts a text with its end token.
    assert_eq!(host.post("/v1/completions", &body(json!({"prompt": ""}))).json()["usage"]["prompt_tokens"], 1);
}

#[test]
fn sixteen_tokens_by_default() {
    let host = host();
    let answer = host.post("/v1/completions", &body(json!({"max_tokens": null, "stop": null}))).json();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}

#[test]
fn log_probabilities_in_the_old_form() {
    let host = host();
    let answer = host.post("/v1/completions", &body(json!({"logprobs": 3}))).json();
    let choice = &answer["choices"][0];
    let logprobs = &choice["logprobs"];
    let tokens: Vec<&str> = logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(logprobs["top_logprobs"][i].as_object().unwrap().len(), 3);
        assert_eq!(logprobs["top_logprobs"][i][token], logprobs["token_logprobs"][i]);
        assert_eq!(logprobs["text_offset"][i], tokens[..i].concat().chars().count());
    }
}

#[test]
fn a_stream_says_the_same() {
    let host = host();
    let whole = host.post("/v1/completions", &body(json!({"logprobs": 1}))).json();
    let events = host.stream("/v1/completions", &body(json!({"logprobs": 1, "stream": true})));
    let text: String = events.iter().map(|e| e["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["text"].as_str().unwrap());
    let offsets: Vec<Value> =
        events.iter().filter_map(|e| e["choices"][0]["logprobs"]["text_offset"].as_array().cloned()).flatten().collect();
    assert_eq!(Value::Array(offsets), whole["choices"][0]["logprobs"]["text_offset"]);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn models_health_and_metrics() {
    let host = host();
    assert_eq!(host.get("/health").json(), json!({"status": "ok"}));
    let list = host.get("/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(list["data"][0]["max_model_len"], 1024);
    assert_eq!(host.get("/v1/models/scribe-8m").json(), list["data"][0]);
    host.get("/v1/models/other").error(404, "model_not_found");

    host.post("/v1/completions", &body(json!({})));
    // The answer may arrive a moment before its slot is counted as free.
    host.wait_idle();
    let metrics = host.get("/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in ["coffer_completion_tokens_total 8", "coffer_active 0", "coffer_queued 0", "coffer_first_token_seconds_count 1"] {
        assert!(metrics.body.lines().any(|l| l == line), "{line} in\n{}", metrics.body);
    }
    assert!(metrics.body.contains(r#"coffer_requests_total{path="/v1/completions",status="200"} 1"#), "{}", metrics.body);
    assert!(!metrics.body.contains("carriage"));
}
