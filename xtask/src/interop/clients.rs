//! The stock OpenAI clients against a real server.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output},
    wiretap::Wiretap,
};
use anyhow::{Context, Result, ensure};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// What the encrypted conversation must not show.
const SECRET: &str = "The inspector hid the emerald beneath the loose stair";

/// Python: chat plain and streamed, completions with log probabilities, models, a wrong key.
pub(crate) fn openai_python(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let server = Server::start(peers, folder)?;
    let mut python = Command::new(peers.python()?);
    let printed = output(python.arg(peers.script("openai_chat.py")).arg(server.url(server.address)).arg(&server.key))?;
    Ok(Outcome::Passed(printed.trim().to_owned()))
}

/// Node: chat plain and streamed.
pub(crate) fn openai_node(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let server = Server::start(peers, folder)?;
    let printed = node(peers, "openai_chat.mjs", &[&server.url(server.address), &server.key])?;
    Ok(Outcome::Passed(printed))
}

/// Node through npm `ehbp`: a capture of all that passed holds neither prompt nor answer; the same capture of a plain chat holds both.
pub(crate) fn ehbp_node_wiretapped(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let server = Server::start(peers, folder)?;
    let tap = Wiretap::start(server.address)?;
    let chat = |mode: &str| node(peers, "openai_ehbp.mjs", &[&server.url(tap.address()), &server.key, SECRET, mode]);
    let answer = chat("encrypted")?;
    let seen = tap.seen();
    let shows = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    ensure!(answer.len() > 20, "the answer {answer:?} is too short to look for");
    // A piece of the answer that is plain ASCII survives JSON escaping as it is.
    let piece = answer.split(|c: char| !c.is_ascii_alphanumeric() && c != ' ').max_by_key(|s| s.len()).unwrap_or_default();
    ensure!(piece.len() >= 8, "no piece of {answer:?} to look for");
    ensure!(!seen.requests.is_empty() && !seen.answers.is_empty(), "nothing was captured");
    ensure!(!shows(&seen.requests, SECRET) && !shows(&seen.answers, piece), "the capture shows the conversation");
    chat("plain")?;
    let seen_plain = tap.seen();
    ensure!(shows(&seen_plain.requests, SECRET), "the capture of a plain chat must show the prompt, or it proves nothing");
    Ok(Outcome::Passed(format!(
        "{} bytes captured, neither prompt nor answer among them",
        seen.requests.len() + seen.answers.len()
    )))
}

pub(super) fn node(peers: &Peers, script: &str, arguments: &[&str]) -> Result<String> {
    // Modules are found beside the script, so it is copied to where they are.
    let folder = peers.node()?;
    let local = folder.join(script);
    std::fs::copy(peers.script(script), &local)?;
    Ok(output(Command::new("node").arg(local).args(arguments).current_dir(folder))?.trim().to_owned())
}

/// A running `coffer serve` on a free port, with a key to it.
pub(crate) struct Server {
    pub(super) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl Server {
    /// Serves scribe-8m; its database lies in `folder`.
    fn start(peers: &Peers, folder: &Path) -> Result<Self> {
        let mut serve = peers.coffer("serve")?;
        serve.arg(scribe(peers));
        Self::run(peers, folder, serve)
    }

    /// Runs `serve` with the address and the database added, which lies in `folder`.
    pub(crate) fn run(peers: &Peers, folder: &Path, mut serve: Command) -> Result<Self> {
        let keys = folder.join("keys.sqlite");
        let key = output(peers.coffer("keys")?.args(["add", "interop", "--database"]).arg(&keys))?.trim().to_owned();
        serve.args(["--listen", "127.0.0.1:0", "--database"]).arg(&keys);
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let address = line
            .trim()
            .rsplit("http://")
            .next()
            .and_then(|a| a.parse().ok())
            .with_context(|| format!("serve printed {line:?}"))?;
        Ok(Self { child, address, key })
    }

    pub(crate) fn url(&self, address: SocketAddr) -> String {
        format!("http://{address}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that is already gone needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
