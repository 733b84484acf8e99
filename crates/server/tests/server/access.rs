//! API keys in a running server.

use crate::harness::{Host, Reply, agent, chat_body, host_with, reply};
use coffer_server::{Access, keys::KeyRing};
use serde_json::json;

fn get(host: &Host, path: &str, key: &str) -> Reply {
    reply(agent().get(host.url(path)).header("authorization", format!("Bearer {key}")).call())
}

#[test]
fn a_key_opens_the_door_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let ring = KeyRing::open(&path).unwrap();
    let host = host_with(|config| config.access = Access::Keys(path.clone()));

    let refused = host.get("/v1/models");
    refused.error(401, "missing_api_key");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    host.post("/v1/chat/completions", &chat_body(json!({}))).error(401, "missing_api_key");
    get(&host, "/v1/models", "coffer-wrong").error(401, "invalid_api_key");
    host.get("/metrics").error(401, "missing_api_key");
    host.get("/nowhere").error(401, "missing_api_key");
    assert_eq!(host.get("/health").status, 200);
    assert_eq!(host.get("/.well-known/hpke-keys").status, 200);

    let key = ring.add("alice").unwrap();
    assert_eq!(get(&host, "/v1/models", &key).status, 200);
    ring.revoke("alice").unwrap();
    get(&host, "/v1/models", &key).error(401, "invalid_api_key");
}

#[test]
fn what_was_computed_serves_the_same_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let ring = KeyRing::open(&path).unwrap();
    let (alice, bob) = (ring.add("alice").unwrap(), ring.add("bob").unwrap());
    let host = host_with(|config| config.access = Access::Keys(path.clone()));
    let ask = |key: &str| {
        let request = agent().post(host.url("/v1/chat/completions")).header("authorization", format!("Bearer {key}"));
        let answer = reply(request.header("content-type", "application/json").send(chat_body(json!({})).to_string())).json();
        let usage = &answer["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (usage["prompt_tokens"].as_u64().unwrap() - cached, cached > 0, crate::harness::content(&answer).to_owned())
    };
    let (_, cached, text) = ask(&alice);
    assert!(!cached);
    assert_eq!(ask(&alice), (1, true, text.clone()));
    let (_, cached, other) = ask(&bob);
    assert_eq!((cached, other), (false, text));
    assert_eq!(ask(&bob).0, 1);
}

#[test]
fn a_missing_folder_for_keys_is_an_error_at_the_start() {
    let mut config = crate::harness::config();
    config.access = Access::Keys("/nonexistent/keys.db".into());
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let error = coffer_server::start(listener, config).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/keys.db"), "{error}");
}
