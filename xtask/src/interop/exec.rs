//! Engines that know nothing of bundles, on sealed models: they must answer as they do on the plain files.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output, run},
};
use anyhow::{Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) const PROMPT: &str = "The capital of France is";

/// A bundle and the key that opens it.
pub(crate) struct Sealed {
    /// Bundle.
    pub(crate) bundle: PathBuf,
    /// Key file.
    pub(crate) key: PathBuf,
}

impl Sealed {
    /// Seals `model` below `folder`.
    pub(crate) fn new(peers: &Peers, model: &Path, folder: &Path) -> Result<Self> {
        let sealed = Self { bundle: folder.join("bundle"), key: folder.join("key") };
        let recipient = output(peers.coffer("keygen")?.arg("-o").arg(&sealed.key))?;
        run(peers.coffer("seal")?.arg(model).args(["--recipient", recipient.trim(), "-o"]).arg(&sealed.bundle))?;
        Ok(sealed)
    }

    /// `coffer exec` with the command `program`; its arguments follow.
    pub(crate) fn exec(&self, peers: &Peers, program: &Path) -> Result<Command> {
        let mut exec = peers.coffer("exec")?;
        exec.arg(&self.bundle).arg("--identity").arg(&self.key).arg("--").arg(program);
        Ok(exec)
    }
}

/// llama-completion on SmolLM2's GGUF, which it maps.
pub(crate) fn llama_completion(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (llama, gguf) = (peers.llama("llama-completion")?, peers.smollm2()?);
    let arguments = ["-p", PROMPT, "-n", "24", "--temp", "0", "-no-cnv", "--no-warmup", "-t", "2"];
    let plain = output(Command::new(&llama).arg("-m").arg(&gguf).args(arguments))?;
    let sealed = output(Sealed::new(peers, &gguf, folder)?.exec(peers, &llama)?.args(["-m", "{}"]).args(arguments))?;
    ensure!(plain == sealed && plain.len() > PROMPT.len(), "plain {plain:?}, sealed {sealed:?}");
    Ok(Outcome::Passed(format!("the same {} bytes of text", plain.len())))
}

/// llama-server on the same, asked over HTTP and then told to end.
pub(crate) fn llama_server(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (llama, gguf) = (peers.llama("llama-server")?, peers.smollm2()?);
    let ask = |model: &Path, server: Command| Ok::<_, anyhow::Error>(ask_server(peers, server, model, 24)?.content);
    let plain = ask(&gguf, Command::new(&llama))?;
    let sealed = ask("{}".as_ref(), Sealed::new(peers, &gguf, folder)?.exec(peers, &llama)?)?;
    ensure!(plain == sealed, "plain {plain:?}, sealed {sealed:?}");
    Ok(Outcome::Passed(format!("the same answer {:?}", plain.trim())))
}

/// What a server said.
#[derive(serde::Deserialize)]
pub(crate) struct Answer {
    content: String,
    /// From its start to this answer.
    pub(crate) seconds: f64,
}

/// Starts `server` with `model`, asks it once for so many tokens and ends it.
pub(crate) fn ask_server(peers: &Peers, mut server: Command, model: &Path, tokens: usize) -> Result<Answer> {
    server.arg("-m").arg(model).args(["-t", "2", "-c", "256", "--host", "127.0.0.1", "--port"]);
    let mut script = Command::new(peers.python()?);
    script.arg(peers.script("llama_server.py")).arg(PROMPT).arg(tokens.to_string());
    Ok(serde_json::from_str(&output(script.arg(server.get_program()).args(server.get_args()))?)?)
}

/// transformers on scribe-8m's directory, whose safetensors it maps.
pub(crate) fn transformers(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (script, text) = (peers.script("perplexity.py"), peers.root().join("assets/text/holdout.txt"));
    let plain = output(Command::new(peers.python()?).arg(&script).arg(scribe(peers)).arg(&text).arg("2048"))?;
    let sealed = Sealed::new(peers, &scribe(peers), folder)?;
    let sealed = output(sealed.exec(peers, &peers.python()?)?.arg(&script).arg("{}").arg(&text).arg("2048"))?;
    ensure!(plain == sealed, "perplexity {plain}, sealed {sealed}");
    Ok(Outcome::Passed(format!("the same perplexity, {}", plain.trim())))
}
