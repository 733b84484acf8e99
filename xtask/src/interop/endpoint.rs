//! `coffer eval --endpoint` on our own server and on llama-server, honest and dishonest.

use super::{Outcome, clients::Server};
use crate::{
    interop::numbers::scribe,
    peer_server::PeerServer,
    peers::{Peers, run},
};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Questions of a trial: few, so that errors would show.
const QUESTIONS: &str = "16";
/// Trials of each pair.
const TRIALS: usize = 12;

/// What `coffer eval --endpoint` says, asked with `arguments`.
fn verdict(peers: &Peers, model: &Path, url: &str, arguments: &[&str]) -> Result<serde_json::Value> {
    let text = peers.root().join("assets/text/holdout.txt");
    let mut eval = peers.coffer("eval")?;
    eval.arg(model).args(["--endpoint", url, "--json", "--text"]).arg(text).args(arguments);
    let out = eval.output()?;
    let errors = || format!("{eval:?}: {}", String::from_utf8_lossy(&out.stderr));
    ensure!(matches!(out.status.code(), Some(0 | 3)), errors());
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).with_context(errors)?;
    ensure!((report["verdict"]["is"] == "equal" || report["verdict"]["is"] == "consistent") == out.status.success(), errors());
    Ok(report["verdict"]["is"].clone())
}

/// scribe-8m in two types.
fn quantized(peers: &Peers, folder: &Path) -> Result<[PathBuf; 2]> {
    let paths = ["Q4_0", "Q8_0"].map(|kind| folder.join(format!("{kind}.gguf")));
    for (path, kind) in paths.iter().zip(["Q4_0", "Q8_0"]) {
        run(peers.coffer("quantize")?.arg(scribe(peers)).args(["--type", kind, "--no-eval", "-o"]).arg(path))?;
    }
    Ok(paths)
}

/// Our own server: equal to the bit, in completions and chats; with another model it is named.
pub(crate) fn our_server(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let [coarse, fine] = quantized(peers, folder)?;
    let mut serve = peers.coffer("serve")?;
    serve.arg(&coarse);
    let server = Server::run(peers, folder, serve)?;
    let (url, key) = (server.url(server.address), folder.join("key"));
    std::fs::write(&key, &server.key)?;
    let key = key.to_str().context("a folder of UTF-8")?;
    let ask = |model: &Path, more: &[&str]| verdict(peers, model, &url, &[&["--api-key-file", key], more].concat());
    ensure!(ask(&coarse, &[])? == "equal" && ask(&coarse, &["--chat"])? == "equal", "our own server is not equal");
    let other = ask(&fine, &["--alternative", coarse.to_str().context("a folder of UTF-8")?])?;
    ensure!(other == "alternative", "a server of Q4_0 is {other} of Q8_0");
    let cache = ask(&coarse, &["--kv-format", "q8_0"])?;
    ensure!(cache != "equal", "another cache format shows");
    Ok(Outcome::Passed("64 prompts and 64 conversations equal to the bit; another model and another cache are not".to_owned()))
}

/// llama-server with Q4_0 and Q8_0 of one model, each taken for itself and for the other.
pub(crate) fn llama_server(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let paths = quantized(peers, folder)?;
    let (mut accused, mut undecided, mut missed, mut named) = (0, 0, 0, 0);
    for (served, path) in paths.iter().enumerate() {
        let server = PeerServer::llama(peers, path, &["-c", "512"])?;
        for (certified, model) in paths.iter().enumerate() {
            let other = paths[1 - certified].to_str().context("a folder of UTF-8")?;
            for seed in 0..TRIALS {
                let seed = seed.to_string();
                let arguments = ["--alternative", other, "--questions", QUESTIONS, "--seed", &seed];
                let is = verdict(peers, model, &server.url(), &arguments)?;
                match (served == certified, is.as_str().unwrap_or_default()) {
                    (true, "consistent" | "equal") | (false, "undecided") => (),
                    (true, "undecided") => undecided += 1,
                    (true, _) => accused += 1,
                    (false, "consistent" | "equal") => missed += 1,
                    (false, _) => named += 1,
                }
            }
        }
    }
    let trials = 2 * TRIALS;
    let figure = format!(
        "{QUESTIONS} questions: of {trials} honest endpoints {accused} accused and {undecided} undecided; of {trials} dishonest ones \
         {missed} missed, {named} named"
    );
    ensure!(accused == 0 && missed == 0 && undecided * 4 <= trials && named * 4 >= 3 * trials, "{figure}");
    Ok(Outcome::Passed(figure))
}
