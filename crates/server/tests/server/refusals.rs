//! Bad requests, one by one.

use crate::harness::{Host, chat_body, host, host_with};
use serde_json::{Value, json};

fn refuse(host: &Host, more: Value, param: &str) {
    let reply = host.post("/v1/chat/completions", &chat_body(more));
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert_eq!(reply.json()["error"]["param"], param, "{}", reply.body);
}

#[test]
fn wrong_values_name_their_parameter() {
    let host = host();
    for (name, value) in [
        ("temperature", json!(2.5)),
        ("temperature", json!("hot")),
        ("top_p", json!(-0.1)),
        ("seed", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(-3)),
        ("stop", json!(["", "a"])),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(5)),
        ("messages", json!([])),
        ("model", json!(null)),
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_object"})),
        ("frequency_penalty", json!(1)),
        ("n", json!(2)),
    ] {
        refuse(&host, json!({ name: value }), name);
    }
    refuse(&host, json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs");
    refuse(&host, json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role");
}

#[test]
fn unknown_fields_and_neutral_values_pass() {
    host().chat(json!({"user": "u", "metadata": {"a": "b"}, "n": 1, "presence_penalty": 0, "tools": [], "store": false}));
}

#[test]
fn invalid_json_is_located() {
    let host = host();
    let send = |body: &str| host.send("/v1/chat/completions", "application/json", body.as_bytes());
    let message = send("{\"model\":\n \"x\",,}").error(400, "invalid_json");
    assert!(message.contains("line 2 column"), "{message}");
    send("").error(400, "invalid_json");
    send("[1, 2]").error(400, "invalid_json");
    send(&"[".repeat(100_000)).error(400, "invalid_json");
    host.send("/v1/chat/completions", "application/json", b"{\"model\": \"\xff\"}").error(400, "invalid_json");
}

#[test]
fn wrong_paths_methods_and_types() {
    let host = host();
    host.get("/v2/chat").error(404, "unknown_url");
    let reply = host.get("/v1/chat/completions");
    reply.error(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "POST");
    host.send("/v1/chat/completions", "text/plain", b"{}").error(415, "unsupported_media_type");
    host.post("/v1/chat/completions", &chat_body(json!({"model": "gpt-4"}))).error(404, "model_not_found");
}

#[test]
fn what_does_not_fit_the_context_is_counted() {
    let host = host();
    let long = |words: usize| json!({"messages": [{"role": "user", "content": "word ".repeat(words)}]});
    let message = host.post("/v1/chat/completions", &chat_body(long(1200))).error(400, "context_length_exceeded");
    assert!(message.contains("1024"), "{message}");
    let message =
        host.post("/v1/chat/completions", &chat_body(json!({"max_tokens": 1020}))).error(400, "context_length_exceeded");
    assert!(message.contains("1020 more"), "{message}");
    // Refused from its length, before it is cut into tokens.
    let message = host.post("/v1/chat/completions", &chat_body(long(1 << 20))).error(400, "context_length_exceeded");
    assert!(message.contains("at least"), "{message}");
}

#[test]
fn prompts_of_completions() {
    let host = host();
    for (prompt, param) in [
        (json!(3), "prompt"),
        (json!([1, -1]), "prompt[1]"),
        (json!([4096]), "prompt"),
        (json!(["a", "b"]), "prompt"),
        (json!([1, "b"]), "prompt[1]"),
    ] {
        let reply = host.post("/v1/completions", &json!({"model": "scribe-8m", "prompt": prompt}));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{}", reply.body);
    }
    host.post("/detokenize", &json!({"tokens": "x"})).error(400, "invalid_value");
    host.post("/tokenize", &json!({})).error(400, "invalid_value");
}

#[test]
fn a_model_without_a_template_does_not_chat() {
    let host = host_with(|config| config.model.template = None);
    let message = host.post("/v1/chat/completions", &chat_body(json!({}))).error(400, "unsupported_parameter");
    assert!(message.contains("/v1/completions"), "{message}");
}
