//! EHBP: what goes over the wire, and what the client reads.

use crate::harness::{Host, PROMPT, agent, chat_body, content, events, host, host_with};
use coffer_seal::ehbp::{ClientRequest, ENCAPSULATED_KEY, KEYS_PATH, RESPONSE_NONCE};
use coffer_server::{Access, keys::KeyRing};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A status and a decrypted body.
fn ask(base: SocketAddr, path: &str, body: &str, key: Option<&str>) -> (u16, String) {
    let config = agent().get(format!("http://{base}{KEYS_PATH}")).call().unwrap().body_mut().read_to_vec().unwrap();
    let (request, encapsulated, framed) = ClientRequest::seal(&config, body.as_bytes()).unwrap();
    let mut post = agent().post(format!("http://{base}{path}")).header("content-type", "application/json");
    if let Some(key) = key {
        post = post.header("authorization", format!("Bearer {key}"));
    }
    let mut response = post.header(ENCAPSULATED_KEY, &encapsulated).send(&framed[..]).unwrap();
    let nonce = response.headers().get(RESPONSE_NONCE).expect("the answer is encrypted").to_str().unwrap().to_owned();
    assert!(response.headers().get("content-length").is_none());
    let mut opener = request.open(&nonce).unwrap();
    let plain = opener.push(&response.body_mut().read_to_vec().unwrap()).unwrap();
    opener.finish().unwrap();
    (response.status().as_u16(), String::from_utf8(plain).unwrap())
}

/// A proxy that passes everything on and keeps a copy.
fn eavesdropper(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&heard);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                let copy = Arc::clone(&copy);
                thread::spawn(move || pass(from, to, &copy));
            }
        }
    });
    (address, heard)
}

fn pass(mut from: TcpStream, mut to: TcpStream, copy: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        copy.lock().unwrap().extend_from_slice(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn an_eavesdropper_reads_neither_prompt_nor_answer() {
    let host = host();
    let (proxy, heard) = eavesdropper(host.address());
    let wanted = content(&host.chat(json!({}))).to_owned();

    let (status, text) = ask(proxy, "/v1/chat/completions", &chat_body(json!({})).to_string(), None);
    assert_eq!(status, 200);
    assert_eq!(content(&serde_json::from_str(&text).unwrap()), wanted);

    let (_, text) = ask(proxy, "/v1/chat/completions", &chat_body(json!({"stream": true})).to_string(), None);
    let said: String = events(&text).iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, wanted);

    let heard = heard.lock().unwrap();
    assert!(heard.len() > 1000);
    let has = |text: &str| heard.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(has("/v1/chat/completions"), "the path is in clear");
    for secret in [PROMPT, &PROMPT[..8], wanted.as_str(), "messages", "choices", "finish_reason"] {
        assert!(!has(secret), "{secret:?} went over the wire");
    }
}

#[test]
fn refusals_are_encrypted_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let key = KeyRing::open(&path).unwrap().add("alice").unwrap();
    let host = host_with(|config| {
        config.access = Access::Keys(path.clone());
        config.limits.body = 10_000;
    });
    let body = chat_body(json!({})).to_string();
    let ask = |path: &str, body: &str, key| ask(host.address(), path, body, key);
    let code = |(status, text): (u16, String)| {
        (status, serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"]["code"].clone())
    };
    assert_eq!(code(ask("/v1/chat/completions", &body, None)), (401, json!("missing_api_key")));
    assert_eq!(code(ask("/v1/chat/completions", &body, Some("coffer-no"))), (401, json!("invalid_api_key")));
    assert_eq!(code(ask("/v1/other", &body, Some(&key))), (404, json!("unknown_url")));
    assert_eq!(code(ask("/v1/models", &body, Some(&key))), (405, json!("method_not_allowed")));
    assert_eq!(code(ask("/v1/chat/completions", "{]", Some(&key))), (400, json!("invalid_json")));
    assert_eq!(code(ask("/v1/chat/completions", &"x".repeat(20_000), Some(&key))), (413, json!("body_too_large")));
    assert_eq!(ask("/v1/chat/completions", &body, Some(&key)).0, 200);
}

fn post(host: &Host, encapsulated: &str, framed: &[u8]) -> crate::harness::Reply {
    let post = agent().post(host.url("/v1/chat/completions")).header("content-type", "application/json");
    crate::harness::reply(post.header(ENCAPSULATED_KEY, encapsulated).send(framed))
}

#[test]
fn another_server_s_key_is_a_known_problem() {
    let host = host();
    let stale = coffer_seal::ehbp::ServerKey::generate().config();
    let (_, encapsulated, framed) = ClientRequest::seal(&stale, b"{}").unwrap();
    let reply = post(&host, &encapsulated, &framed);
    assert_eq!(reply.status, 422);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.json()["type"], "urn:ietf:params:ehbp:error:key-config");
    assert_eq!(reply.header(RESPONSE_NONCE), "");
}

#[test]
fn malformed_bodies_are_refused() {
    let host = host();
    let config = agent().get(host.url(KEYS_PATH)).call().unwrap().body_mut().read_to_vec().unwrap();
    assert_eq!(config.len(), 41);
    let (_, encapsulated, framed) = ClientRequest::seal(&config, b"{\"a\": 1}").unwrap();
    post(&host, "zz", &framed).error(400, "encrypted_body");
    post(&host, &encapsulated, &framed[..framed.len() - 1]).error(400, "encrypted_body");
    post(&host, &encapsulated, &u32::MAX.to_be_bytes()).error(400, "encrypted_body");
    post(&host, &encapsulated, &[0; 4]).error(400, "encrypted_body");
    post(&host, &encapsulated, &[framed.clone(), framed.clone()].concat()).error(400, "encrypted_body");
    // No body: SPEC.md section 7.4 lets it pass in clear.
    post(&host, &encapsulated, &[]).error(400, "invalid_json");
}

#[test]
fn the_key_configuration_has_its_exact_type() {
    let host = host();
    let reply = host.get(KEYS_PATH);
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/ohttp-keys"));
}
