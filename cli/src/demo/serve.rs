//! Step 6: the sealed model behind a server, an eavesdropper on the wire, and a question that only the server can read.

use super::{Demo, protect::Sealed, say};
use crate::{
    client::Client,
    commands::serve::served,
    demo::wiretap::{Seen, Wiretap},
    progress::Style,
};
use anyhow::{Context, Result, ensure};
use coffer_assess::exhibits::{Attempt, Serving};
use coffer_server::{Access, Config, Limits, keys::KeyRing};
use serde_json::{Value, json};
use std::{net::TcpListener, time::Instant};

const QUESTION: &str = "The inspector laid the letter upon the table, and looked long at the seal before he spoke.";
const CHAT: &str = "/v1/chat/completions";
/// Bytes of each body that are kept to be shown.
const SHOWN: usize = 160;

/// Serves, asks, and shows what passed.
pub(super) fn run(demo: &Demo, variant: &str, sealed: &Sealed) -> Result<Serving> {
    say::step(6, "Serve", "can anybody on the way read a question or its answer?");
    let keys = demo.work().join("keys.sqlite");
    let api_key = KeyRing::open(&keys)?.add("demo")?;
    let start = Instant::now();
    let model = coffer_store::open(&sealed.bundle, std::slice::from_ref(&sealed.identity))?;
    let engine = demo.compute.load(&model, Style::Auto)?;
    let config = Config {
        model: served("scribe-8m".to_owned(), model, engine)?,
        access: Access::Keys(keys),
        slots: 4,
        queue: 16,
        kept_prefixes: 0,
        limits: Limits::default(),
    };
    let server = coffer_server::start(TcpListener::bind(("127.0.0.1", 0))?, config)?;
    let (address, seconds) = (server.address(), start.elapsed().as_secs_f64());
    say::line(&format!("serving on {address} after {seconds:.2} s; the model was decrypted in memory only"));

    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let ask = json!({ "model": "scribe-8m", "messages": messages, "max_tokens": 60, "temperature": 0.7, "seed": 11 });
    let stranger = Client::new(&format!("http://{address}"), "coffer-no-such-key").post(CHAT, &ask)?;
    ensure!(stranger.status == 401, "a request without a valid API key was answered with {}", stranger.status);
    let attempt = Attempt { what: "a chat without a valid API key".to_owned(), refused: true, outcome: message(&stranger.body)? };
    say::refused(&format!("{}: 401, {}", attempt.what, attempt.outcome));

    let tap = Wiretap::start(address)?;
    let answer = Client::new(&format!("http://{}", tap.address()), &api_key).post_encrypted(CHAT, &ask)?;
    ensure!(answer.status == 200, "the chat was refused with {}: {}", answer.status, answer.body);
    let serving = seen_and_read(variant, &tap.seen(), &content(&answer.body)?, attempt);
    server.stop();
    show(&serving);
    ensure!(serving.readable_bytes == 0, "{} bytes of the conversation can be read on the wire", serving.readable_bytes);
    say::shown("neither the question nor the answer is in the capture");
    Ok(serving)
}

fn content(body: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(body)?;
    Ok(answer["choices"][0]["message"]["content"].as_str().context("the answer has no content")?.to_owned())
}

fn message(body: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(body)?;
    Ok(answer["error"]["message"].as_str().context("the refusal has no message")?.to_owned())
}

fn seen_and_read(variant: &str, seen: &Seen, answer: &str, attempt: Attempt) -> Serving {
    let first = |stream: &[u8], head: &str| last_body(stream, head).iter().copied().take(SHOWN).collect();
    Serving {
        variant: variant.to_owned(),
        attempts: vec![attempt],
        prompt: QUESTION.to_owned(),
        answer: answer.trim().to_owned(),
        wire_bytes: (seen.requests.len() + seen.answers.len()) as u64,
        readable_bytes: readable(&seen.requests, QUESTION) + readable(&seen.answers, answer),
        seen_request: first(&seen.requests, "POST "),
        seen_answer: first(&seen.answers, "HTTP/1.1 "),
    }
}

/// Bytes of the words of `text` of five letters and more that stand somewhere in `stream`.
fn readable(stream: &[u8], text: &str) -> u64 {
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| w.len() >= 5);
    words.filter(|w| stream.windows(w.len()).any(|s| s == w.as_bytes())).map(|w| w.len() as u64).sum()
}

/// What follows the head of the last HTTP message of a stream; its first line starts with `head`.
fn last_body<'a>(stream: &'a [u8], head: &str) -> &'a [u8] {
    let message = stream.windows(head.len()).rposition(|w| w == head.as_bytes()).unwrap_or(0);
    let body = stream[message..].windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
    &stream[message + body..]
}

fn show(serving: &Serving) {
    say::line(&format!("an eavesdropper captured all {} bytes of the encrypted chat:", serving.wire_bytes));
    let rows = [
        ("client asked", serving.prompt.clone()),
        ("wire showed", printable(&serving.seen_request)),
        ("client read", serving.answer.clone()),
        ("wire showed", printable(&serving.seen_answer)),
    ];
    for (who, text) in rows {
        let chars: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        for (i, part) in chars.chunks(84).enumerate() {
            say::line(&format!("  {:13} {}", if i == 0 { who } else { "" }, part.iter().collect::<String>()));
        }
    }
}

/// Bytes as a terminal can show them: what is no printable ASCII becomes a dot.
fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '·' }).collect()
}
