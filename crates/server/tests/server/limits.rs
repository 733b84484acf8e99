//! Clients that send too much, too slowly, or stop listening.

use crate::harness::{host, host_with, read_until};
use serde_json::json;
use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

#[test]
fn a_hundred_megabytes_are_refused_and_not_kept() {
    let host = host();
    let before = resident();
    let mut zeros = io::repeat(b' ').take(100_000_000);
    let body = ureq::SendBody::from_reader(&mut zeros);
    let post = crate::harness::agent().post(host.url("/v1/chat/completions")).header("content-type", "application/json");
    let reply = crate::harness::reply(post.send(body));
    let message = reply.error(413, "body_too_large");
    assert!(message.contains("8388608"), "{message}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 90 << 20, "memory grew by {grown} bytes");
}

#[test]
fn a_client_that_asks_first_is_refused_before_it_sends() {
    let host = host();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n";
    let mut stream = host.raw(head, b"");
    assert!(read_until(&mut stream, "\r\n").starts_with("HTTP/1.1 413"));
}

#[test]
fn slow_heads_and_bodies_run_out_of_time() {
    let host = host_with(|config| {
        config.limits.head_timeout = Duration::from_millis(200);
        config.limits.body_timeout = Duration::from_millis(200);
    });
    let mut stream = host.raw("POST /v1/chat/completions HTTP/1.1\r\nhost:", b"");
    assert!(!read_until(&mut stream, "never").starts_with("HTTP/1.1 2"));
    let mut stream = host.raw("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", b"{");
    assert!(read_until(&mut stream, "body_timeout").starts_with("HTTP/1.1 408"));
}

#[test]
fn a_body_that_breaks_off_is_no_request() {
    let host = host();
    let stream = host.raw("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", b"{");
    drop(stream);
    assert_eq!(host.get("/health").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let host = host_with(|config| (config.slots, config.queue) = (1, 1));
    let mut clients: Vec<_> = (0..8).map(|_| host.raw_chat(json!({"max_tokens": 200}))).collect();
    let heads: Vec<String> = clients.iter_mut().map(|client| read_until(client, "\r\n\r\n")).collect();
    let refused: Vec<_> = heads.iter().filter(|head| head.starts_with("HTTP/1.1 429")).collect();
    assert!(!refused.is_empty() && heads.iter().any(|head| head.starts_with("HTTP/1.1 200")), "{heads:?}");
    assert!(refused.iter().all(|head| head.contains("retry-after: 1\r\n")), "{refused:?}");
    host.chat(json!({}));
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    // Seconds of work in line, so that a slow test thread still leaves before it is done.
    const CLIENTS: usize = 12;
    let host = host_with(|config| config.slots = 1);
    for stream in [true, false] {
        let before = host.metric("coffer_abandoned_total");
        let clients: Vec<_> = (0..CLIENTS).map(|_| host.raw_chat(json!({"max_tokens": 900, "stream": stream}))).collect();
        while host.metric("coffer_active") == 0.0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(clients);
        host.wait_idle();
        let abandoned = host.metric("coffer_abandoned_total") - before;
        assert!(abandoned >= 1.0, "{abandoned} of {CLIENTS}");
    }
}

#[test]
fn a_client_that_stops_reading_blocks_nobody() {
    let host = host_with(|config| config.slots = 2);
    let stalled = host.raw_chat(json!({"max_tokens": 100, "stream": true, "logprobs": true, "top_logprobs": 20}));
    let start = Instant::now();
    for _ in 0..3 {
        host.chat(json!({}));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    host.wait_idle();
    drop(stalled);
}

/// Bytes of memory in use, 0 where that cannot be told.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
