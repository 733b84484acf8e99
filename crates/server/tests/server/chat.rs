//! `/v1/chat/completions`: shape, streaming, stops, log probabilities, seeds.

use crate::harness::{MODEL, chat_body, content, host};
use serde_json::{Value, json};

#[test]
fn an_answer_has_openai_s_shape() {
    let host = host();
    let answer = host.chat(json!({}));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert_eq!(answer["system_fingerprint"], "fp_0707070707070707");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["role"], &choice["finish_reason"]), (&json!("assistant"), &json!("length")));
    assert!(!content(&answer).is_empty());
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 8);
    let total = usage["prompt_tokens"].as_u64().unwrap() + 8;
    assert_eq!(usage["total_tokens"], total);
}

#[test]
fn a_stream_says_the_same_in_order() {
    let host = host();
    let whole = host.chat(json!({"max_tokens": 24}));
    let body = chat_body(json!({"max_tokens": 24, "stream": true, "stream_options": {"include_usage": true}}));
    let events = host.stream("/v1/chat/completions", &body);
    assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["id"] == events[0]["id"]));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, content(&whole));
    let (usage, rest) = events.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    let (last, rest) = rest.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(rest.iter().all(|e| e["choices"][0]["finish_reason"].is_null() && e["usage"].is_null()));
    assert!(rest.len() > 8, "the text came in pieces");
}

#[test]
fn content_may_come_in_parts() {
    let host = host();
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": crate::harness::PROMPT}]}]);
    assert_eq!(content(&host.chat(json!({"messages": parts}))), content(&host.chat(json!({}))));
}

#[test]
fn a_stop_string_never_shows() {
    let host = host();
    let whole = content(&host.chat(json!({"max_tokens": 24}))).to_owned();
    // Every piece of the answer that crosses a few tokens, as a stop string, streamed and not.
    let chars: Vec<char> = whole.chars().collect();
    for start in [1, chars.len() / 3, chars.len() / 2] {
        let stop: String = chars[start..start + 9].iter().collect();
        let wanted = &whole[..whole.find(&stop).unwrap()];
        let answer = host.chat(json!({"max_tokens": 24, "stop": ["\u{2603}", stop]}));
        assert_eq!(content(&answer), wanted);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let body = chat_body(json!({"max_tokens": 24, "stop": stop, "stream": true}));
        let events = host.stream("/v1/chat/completions", &body);
        let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, wanted);
    }
    host.wait_idle();
}

#[test]
fn log_probabilities_fit_the_text() {
    let host = host();
    let answer = host.chat(json!({"logprobs": true, "top_logprobs": 20}));
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 8);
    let mut bytes = Vec::new();
    for token in tokens {
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
        let top: Vec<f64> = token["top_logprobs"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert_eq!(top.len(), 20);
        assert!(top.is_sorted_by(|a, b| a >= b), "most likely first");
        let sum: f64 = top.iter().map(|l| l.exp()).sum();
        assert!(sum > 0.05 && sum < 1.0001, "probabilities sum to {sum}");
        // Greedy: the token is the first of its alternatives.
        assert_eq!(token["logprob"], token["top_logprobs"][0]["logprob"]);
        assert_eq!(token["token"], token["top_logprobs"][0]["token"]);
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), content(&answer));

    let body = chat_body(json!({"logprobs": true, "top_logprobs": 20, "stream": true}));
    let streamed: Vec<Value> = host
        .stream("/v1/chat/completions", &body)
        .iter()
        .filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(&streamed, tokens);
}

#[test]
fn a_seed_repeats_the_answer_alone_and_in_company() {
    let host = host();
    let ask = |seed: u64| content(&host.chat(json!({"temperature": 1, "seed": seed, "max_tokens": 24}))).to_owned();
    let alone: Vec<String> = (0..4).map(ask).collect();
    assert_eq!(ask(0), alone[0]);
    assert!(alone.iter().any(|a| *a != alone[0]), "seeds make a difference");
    let together: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|seed| scope.spawn(move || ask(seed))).collect();
        asking.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn without_a_seed_answers_differ() {
    let host = host();
    let ask = || content(&host.chat(json!({"temperature": 1, "max_tokens": 24}))).to_owned();
    let first = ask();
    assert!((0..4).any(|_| ask() != first));
}
