//! Sealed models in use, beside the same models in plain files.

use super::{
    Row, alternate, engine,
    machine::{cache, ready},
};
use crate::{
    interop::exec::{PROMPT, Sealed, ask_server},
    peers::{Peers, output, run},
};
use anyhow::{Context, Result};
use coffer_checkpoint::{SafetensorsFile, TensorSource};
use coffer_seal::{Identity, floe};
use coffer_store::FileSet;
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Bytes of a segment, as bundles have them; openssl's blocks are as long.
const SEGMENT: usize = 256 << 10;
/// Gigabytes a second that one core should open.
const OPEN_AIM: f64 = 8.0;
/// Milliseconds in which the first tensor should be there.
const TENSOR_AIM: f64 = 50.0;

/// Decrypting in memory on one core, by its time, beside `openssl speed`, which encrypts and leaves out the tag's check.
pub(super) fn in_memory(peers: &Peers, repeat: usize) -> Result<Row> {
    let (cipher, _) = floe::Cipher::start(&[1; 32], b"", SEGMENT as u32)?;
    let mut plain = vec![5; cipher.plain_len()];
    let mut sealed = vec![0; SEGMENT];
    cipher.seal(0, false, &plain, &mut sealed)?;
    let rounds = 8_000_000_000 / SEGMENT;
    let ours = || {
        let start = thread_seconds();
        (0..rounds).try_for_each(|_| cipher.open_segment(0, false, &sealed, &mut plain))?;
        Ok((rounds * plain.len()) as f64 / (thread_seconds() - start) / 1e9)
    };
    let openssl = peers.debian("openssl")?;
    let (ours, peer) = alternate(repeat, ours, || openssl_speed(&openssl))?;
    Ok(Row::rate("open in memory on one core, peer openssl speed", ours, peer, "GB/s").aim(OPEN_AIM / peer))
}

/// Processor time of this thread.
fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Gigabytes that AES-256-GCM encrypts in a second of processor time. The last line is `+F:22:AES-256-GCM:BYTES A SECOND`.
fn openssl_speed(openssl: &Path) -> Result<f64> {
    let bytes = SEGMENT.to_string();
    let printed = output(Command::new(openssl).args(["speed", "-mr", "-seconds", "1", "-bytes", &bytes, "-evp", "aes-256-gcm"]))?;
    let rate = printed.lines().rev().find_map(|line| line.strip_prefix("+F:")?.rsplit(':').next()?.parse::<f64>().ok());
    Ok(rate.with_context(|| format!("openssl speed printed {printed:?}"))? / 1e9)
}

/// From nothing to the first tensor of a layer, out of the bundle of one safetensors file.
pub(super) fn first_tensor(repeat: usize, bundle: &Path, key: &Path) -> Result<Row> {
    let read = || -> Result<f64> {
        let start = Instant::now();
        let files = FileSet::open(bundle, &Identity::read(key)?)?;
        let name = &files.list().first().context("a bundle holds a file")?.0;
        let weights = SafetensorsFile::open(name, files.file(name)?)?;
        let tensor = weights.index().find("model.layers.0.self_attn.q_proj.weight").context("the model has a layer")?;
        let info = weights.index().get(tensor);
        let rows = info.rows();
        let mut bytes = vec![0; usize::try_from(info.bytes().context("its size is known")?)?];
        weights.read_rows(tensor, 0..rows, &mut bytes)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut times = (0..repeat.max(1)).map(|_| read()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    Ok(Row::cost("first tensor (8 MB) of 2.2 GB, beside the limit", median, TENSOR_AIM, "ms").aim(1.0))
}

/// From the start of a command to the first token, ours and llama-server, sealed beside plain. `synthetic` is 1.1 B in bf16.
pub(super) fn first_tokens(peers: &Peers, repeat: usize, synthetic: &Path) -> Result<Vec<Row>> {
    let smol = ("SmolLM2-135M Q4_1", peers.smollm2()?);
    let mut rows = Vec::new();
    for (name, model) in [&smol, &("1.1 B bf16", synthetic.to_owned())] {
        let folder = tempfile::tempdir_in(peers.cache())?;
        let sealed = Sealed::new(peers, model, folder.path())?;
        let (ours, peer) = alternate(
            repeat,
            || first_token(&sealed.bundle, peers.coffer("generate")?.arg(&sealed.bundle).arg("--identity").arg(&sealed.key)),
            || first_token(model, peers.coffer("generate")?.arg(model)),
        )?;
        rows.push(Row::cost(format!("load to first token, {name}, peer plain"), ours, peer, "s").at_most(1.1));
    }
    for (name, gguf) in [&smol, &("1.1 B Q4_K_M", engine::quantized(peers, synthetic, "Q4_K_M")?)] {
        let folder = tempfile::tempdir_in(peers.cache())?;
        let sealed = Sealed::new(peers, gguf, folder.path())?;
        let llama = peers.llama("llama-server")?;
        let (ours, peer) = alternate(
            repeat,
            || served(peers, &sealed.bundle, "{}".as_ref(), sealed.exec(peers, &llama)?),
            || served(peers, gguf, gguf, Command::new(&llama)),
        )?;
        rows.push(Row::cost(format!("exec llama-server to first token, {name}, peer plain"), ours, peer, "s").at_most(1.2));
    }
    Ok(rows)
}

/// Seconds of `generate`, which loads `model` and makes one token.
fn first_token(model: &Path, generate: &mut Command) -> Result<f64> {
    prepare(model)?;
    let start = Instant::now();
    run(generate.args(["--prompt", PROMPT, "--max-tokens", "1", "--temperature", "0", "--progress", "none"]))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds from the start of `server`, which is given `model`, to its answer of one token; `held` is where the model lies.
fn served(peers: &Peers, held: &Path, model: &Path, server: Command) -> Result<f64> {
    prepare(held)?;
    Ok(ask_server(peers, server, model, 1)?.seconds)
}

/// All of a model lies in the page cache, and the memory ready that both sides need.
fn prepare(model: &Path) -> Result<()> {
    ready(cache_all(model)? * 5 / 2)
}

/// Reads a file, or all files of a folder; gives their bytes.
fn cache_all(path: &Path) -> Result<u64> {
    if !path.is_dir() {
        cache(path)?;
        return Ok(path.metadata()?.len());
    }
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    entries.iter().map(|entry| cache_all(entry)).sum()
}
