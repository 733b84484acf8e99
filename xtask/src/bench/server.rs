//! Servers with several clients at a time.

use super::THREADS;
use crate::{
    interop::clients::Server,
    peer_server::PeerServer,
    peers::{Peers, output},
};
use anyhow::Result;
use std::{path::Path, process::Command};

/// Clients that ask at the same time.
pub(super) const CLIENTS: usize = 8;
/// Tokens of each prompt and of each answer.
const PROMPT: usize = 32;
const ANSWER: usize = 64;

/// Tokens a second that all clients of `coffer serve` get.
pub(super) fn ours(peers: &Peers, gguf: &Path) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut serve = peers.coffer("serve")?;
    serve.arg(gguf).args(["--slots", &CLIENTS.to_string(), "--threads", &THREADS.to_string(), "--context", "512"]);
    let server = Server::run(peers, folder.path(), serve)?;
    throughput(peers, &server.url(server.address), &server.key)
}

/// The same of llama-server.
pub(super) fn llama(peers: &Peers, gguf: &Path) -> Result<f64> {
    let (slots, context) = (CLIENTS.to_string(), (CLIENTS * 512).to_string());
    let server = PeerServer::llama(peers, gguf, &["-np", &slots, "-c", &context])?;
    throughput(peers, &server.url(), "none")
}

fn throughput(peers: &Peers, url: &str, key: &str) -> Result<f64> {
    let mut clients = Command::new(peers.python()?);
    clients.arg(peers.script("throughput.py")).args([url, key]).args([CLIENTS, PROMPT, ANSWER].map(|n| n.to_string()));
    Ok(output(&mut clients)?.trim().parse()?)
}
