//! No plaintext at rest: markers are sought on the disk, in swap and in core dumps, after showing that the search finds them
//! where nothing is sealed.

use super::Outcome;
use crate::{
    interop::{
        clients::{Server, node},
        exec::Sealed,
        numbers::scribe,
    },
    peers::{Peers, output},
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
};

const PROMPT: &str = "The inspector hid the emerald beneath the loose stair";
const TENSOR: &str = "model.layers.0.self_attn.q_proj.weight";
const WEIGHTS: &str = "model.safetensors";
/// Bytes that are searched at a time, and no marker is longer than what is carried over.
const CHUNK: u64 = 16 << 20;
const LONGEST: usize = 256;
const SIGABRT: i32 = 6;

/// What must not be found, by the name that an error calls it.
struct Markers(Vec<(&'static str, Vec<u8>)>);

/// Runs a plain model, then a sealed one under `serve` and `exec`, each in its own working directory and each aborted; only
/// the plain one may leave anything.
pub(crate) fn search(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (keys, plain, sealed) = (folder.join("keys"), folder.join("plain"), folder.join("sealed"));
    [&keys, &plain, &sealed].iter().try_for_each(fs::create_dir)?;
    let made = Sealed::new(peers, &scribe(peers), &keys)?;
    let bundle = Sealed { bundle: sealed.join("bundle"), key: made.key };
    fs::rename(made.bundle, &bundle.bundle)?;
    let mut markers = Markers::new(peers, &bundle.key)?;

    let python = peers.python()?;
    let hold = peers.script("hold.py");
    let copy = plain.join(WEIGHTS);
    fs::copy(scribe(peers).join(WEIGHTS), &copy)?;
    ensure!(markers.found(&plain)?.len() == 2, "the search does not find weights and names in a plain file");
    aborted(Command::new(&python).arg(&hold).arg(&copy).arg(PROMPT), &plain)?;
    fs::remove_file(copy)?;
    let dumped = markers.found(&plain)?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    ensure!(
        dumped.len() == 3 || pattern.starts_with(['|', '/']),
        "a core dump of a plain run should hold weights, names and prompt; the search finds {dumped:?}"
    );

    aborted(bundle.exec(peers, &python)?.arg(&hold).arg(format!("{{}}/{WEIGHTS}")).arg(PROMPT), &sealed)?;
    let memory = serve_and_abort(peers, &bundle, &sealed, &mut markers)?;
    let found = markers.found(&sealed)?;
    ensure!(found.is_empty(), "found after seal, exec and serve: {found:?}");
    let is_core = |f: &std::path::PathBuf| f.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"));
    let cores: Vec<_> = files(&sealed)?.into_iter().filter(is_core).collect();
    ensure!(cores.is_empty(), "core dumps: {cores:?}");
    let swap = swap(&markers)?;
    Ok(Outcome::Passed(format!(
        "plain: found on disk and {} of 3 in a core dump; sealed: nothing, no core dump; {memory}; swap: {swap}",
        dumped.len()
    )))
}

impl Markers {
    fn new(peers: &Peers, key: &Path) -> Result<Self> {
        let weights = fs::read(scribe(peers).join(WEIGHTS))?;
        let middle = weights.len() / 2;
        let key = fs::read_to_string(key)?;
        let key = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).context("the key file holds a key")?;
        let all = [("weights", weights.get(middle..middle + 48)), ("a tensor's name", Some(TENSOR.as_bytes()))];
        let all = all.into_iter().chain([("the prompt", Some(PROMPT.as_bytes())), ("the key", Some(key.as_bytes()))]);
        Ok(Self(all.map(|(name, bytes)| Ok((name, bytes.context("the weights are short")?.to_vec()))).collect::<Result<_>>()?))
    }

    /// Which of them any file below `folder` holds.
    fn found(&self, folder: &Path) -> Result<Vec<&'static str>> {
        let mut found = Vec::new();
        for file in files(folder)? {
            self.look(&file, &mut found)?;
        }
        Ok(found)
    }

    fn look(&self, file: &Path, found: &mut Vec<&'static str>) -> Result<()> {
        let mut file = fs::File::open(file).with_context(|| format!("{} must be readable to be searched", file.display()))?;
        let mut window = Vec::new();
        loop {
            let read = (&mut file).take(CHUNK).read_to_end(&mut window)?;
            for (name, marker) in &self.0 {
                if !found.contains(name) && holds(&window, marker) {
                    found.push(name);
                }
            }
            if read == 0 {
                return Ok(());
            }
            // A marker may lie across two chunks.
            window.drain(..window.len().saturating_sub(LONGEST));
        }
    }
}

fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    let Some((first, rest)) = marker.split_first() else { return true };
    let mut from = bytes;
    while let Some(at) = from.iter().position(|b| b == first) {
        from = &from[at + 1..];
        if from.starts_with(rest) {
            return true;
        }
    }
    false
}

/// All regular files below `folder`.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            all.extend(files(&entry.path())?);
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// Runs `command` in `folder`, core dumps allowed and temporary files there too; it must end by SIGABRT.
fn aborted(command: &mut Command, folder: &Path) -> Result<()> {
    let out = dumping(command, folder).output()?;
    let ended = out.status.signal() == Some(SIGABRT) || out.status.code() == Some(128 + SIGABRT);
    ensure!(ended, "{command:?} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// The command under a shell that lifts the limit on core dumps.
fn dumping(command: &Command, folder: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(folder).env("TMPDIR", folder).stdin(Stdio::null());
    shell
}

/// Serves the sealed model, has it answer the prompt in clear and encrypted, and aborts it. Adds what must not be found either to the
/// markers, and says what of a conversation that is over is in the server's memory.
fn serve_and_abort(peers: &Peers, bundle: &Sealed, folder: &Path, markers: &mut Markers) -> Result<String> {
    let mut serve = peers.coffer("serve")?;
    serve.arg(&bundle.bundle).arg("--identity").arg(&bundle.key);
    let mut server = Server::run(peers, folder, dumping(&serve, folder))?;
    let (base, key) = (server.url(server.address), server.key.clone());
    let body = serde_json::json!({"model": "bundle", "prompt": PROMPT, "max_tokens": 8}).to_string();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-H", "Content-Type: application/json", "-H", &format!("Authorization: Bearer {key}"), "-d", &body]);
    let answer = output(curl.arg(format!("{base}/v1/completions")))?;
    ensure!(answer.contains("choices"), "{answer}");
    let answer = node(peers, "openai_ehbp.mjs", &[&base, &key, PROMPT, "encrypted"])?;
    ensure!(answer.len() > 20, "the answer {answer:?} is too short to look for");
    let start = answer.char_indices().nth(20).map_or(answer.len(), |(at, _)| at);
    markers.0.extend([("the API key", key.into_bytes()), ("the answer", answer.as_bytes()[..start].to_vec())]);
    let memory = in_memory(server.child.id(), markers, bundle.bundle.as_os_str().as_bytes())?;
    output(Command::new("kill").args(["-ABRT", &server.child.id().to_string()]))?;
    let status = server.child.wait()?;
    ensure!(status.signal() == Some(SIGABRT), "serve ended with {status}");
    Ok(memory)
}

/// Seeks the markers in what a running process may write to; `argument`, which it was started with, shows that the search finds what is there.
fn in_memory(process: u32, markers: &Markers, argument: &[u8]) -> Result<String> {
    let Ok(memory) = fs::File::open(format!("/proc/{process}/mem")) else { return Ok("its memory cannot be read here".into()) };
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let (mut found, mut control) = (Vec::new(), false);
    for line in maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).context("a map has a range")?;
        let (begin, end) = (u64::from_str_radix(range.0, 16)?, u64::from_str_radix(range.1, 16)?);
        let mut bytes = vec![0; usize::try_from(end - begin)?];
        // Pages that the kernel keeps for itself cannot be read.
        if memory.read_exact_at(&mut bytes, begin).is_ok() {
            control |= holds(&bytes, argument);
            found.extend(markers.0.iter().filter(|(_, marker)| holds(&bytes, marker)).map(|(name, _)| *name));
        }
    }
    ensure!(control, "the search does not find an argument of the server in its memory");
    ensure!(found.is_empty(), "in the memory of a server whose conversations are over: {found:?}");
    Ok("nothing of a conversation in its memory".into())
}

/// Searches what is swapped to files and partitions that can be read.
fn swap(markers: &Markers) -> Result<String> {
    let list = fs::read_to_string("/proc/swaps")?;
    let places: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let mut found = Vec::new();
    for place in &places {
        markers.look(place.as_ref(), &mut found)?;
    }
    ensure!(found.is_empty(), "found in swap: {found:?}");
    Ok(if places.is_empty() { "off".to_owned() } else { format!("nothing on {}", places.join(", ")) })
}
