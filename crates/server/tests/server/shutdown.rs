//! Stopping while answers are on their way.

use crate::harness::{host_with, read_until};
use serde_json::json;
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

#[test]
fn a_running_answer_is_finished() {
    let host = host_with(|_| {});
    let mut client = host.raw_chat(json!({"max_tokens": 40, "stream": true}));
    read_until(&mut client, "data: ");
    let address = host.address();
    let stopping = std::thread::spawn(move || host.server.stop());
    let rest = read_until(&mut client, "data: [DONE]");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn an_answer_that_takes_too_long_is_cut() {
    let host = host_with(|config| config.limits.shutdown_grace = Duration::from_millis(1));
    let mut client = host.raw_chat(json!({"max_tokens": 1000, "stream": true}));
    read_until(&mut client, "data: ");
    let start = Instant::now();
    host.server.stop();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(!read_until(&mut client, "[DONE]").contains("[DONE]"));
}

#[test]
fn an_idle_connection_does_not_hold_the_server() {
    let host = host_with(|_| {});
    let _idle = TcpStream::connect(host.address()).unwrap();
    let start = Instant::now();
    drop(host);
    assert!(start.elapsed() < Duration::from_secs(5));
}
