//! Whole commands beside their peers' commands, by wall clock.

use super::{Row, alternate, synthetic};
use crate::peers::{Peers, run};
use anyhow::{Context, Result};
use std::{path::Path, process::Command, time::Instant};

/// bf16 to each type beside llama-quantize.
pub(crate) fn quantize(peers: &Peers, repeat: usize) -> Result<Vec<Row>> {
    let Some(model) = synthetic(peers)? else { return Ok(Vec::new()) };
    let bf16 = peers.cache().join("synthetic-1b-BF16.gguf");
    if !bf16.exists() {
        run(peers.coffer("convert")?.arg(&model).args(["--to", "gguf", "-o"]).arg(&bf16))?;
    }
    let folder = tempfile::tempdir_in(peers.cache())?;
    let (out, theirs) = (folder.path().join("ours.gguf"), folder.path().join("theirs.gguf"));
    let llama = peers.llama("llama-quantize")?;
    let mut rows = Vec::new();
    for kind in ["Q4_K_M", "Q6_K", "Q8_0", "Q4_0"] {
        let (ours, peer) = alternate(
            repeat,
            || timed(&out, peers.coffer("quantize")?.arg(&bf16).args(["--type", kind, "--threads", "2", "-o"]).arg(&out)),
            || timed(&theirs, Command::new(&llama).arg(&bf16).arg(&theirs).args([kind, "2"])),
        )?;
        rows.push(Row::cost(format!("quantize 2.2 GB to {kind}"), ours, peer, "s"));
    }
    Ok(rows)
}

/// 2.2 GB beside age, and beside a plain copy.
pub(crate) fn seal(peers: &Peers, repeat: usize) -> Result<Vec<Row>> {
    let Some(model) = synthetic(peers)? else { return Ok(Vec::new()) };
    let weights = model.join("model.safetensors");
    let folder = tempfile::tempdir_in(peers.cache())?;
    let at = |name: &str| folder.path().join(name);
    let age = peers.debian("age")?;
    let recipient = crate::peers::output(peers.coffer("keygen")?.arg("-o").arg(at("key")))?;
    let recipient = recipient.trim();
    let copy = || timed(&at("copy"), Command::new("cp").arg(&weights).arg(at("copy")));
    let seal = |out: &Path| timed(out, peers.coffer("seal")?.arg(&weights).args(["--recipient", recipient, "-o"]).arg(out));
    let encrypt = |out: &Path| timed(out, Command::new(&age).args(["-r", recipient, "-o"]).arg(out).arg(&weights));
    let (ours, peer) = alternate(repeat, || seal(&at("bundle")), || encrypt(&at("age")))?;
    let (again, plain) = alternate(repeat, || seal(&at("bundle")), copy)?;
    let open = || {
        timed(&at("opened"), peers.coffer("open")?.arg(at("bundle")).arg("--identity").arg(at("key")).arg("-o").arg(at("opened")))
    };
    let decrypt =
        || timed(&at("plain"), Command::new(&age).args(["-d", "-i"]).arg(at("key")).arg("-o").arg(at("plain")).arg(at("age")));
    let (opened, decrypted) = alternate(repeat, open, decrypt)?;
    Ok(vec![
        Row::cost("seal 2.2 GB, peer age", ours, peer, "s"),
        Row::cost("seal 2.2 GB, peer cp", again, plain, "s"),
        Row::cost("open 2.2 GB, peer age", opened, decrypted, "s"),
    ])
}

/// Seconds of a command that writes `out`, which is removed first.
fn timed(out: &Path, command: &mut Command) -> Result<f64> {
    if out.is_dir() {
        std::fs::remove_dir_all(out)?;
    } else if out.exists() {
        std::fs::remove_file(out)?;
    }
    let start = Instant::now();
    run(command).with_context(|| out.display().to_string())?;
    Ok(start.elapsed().as_secs_f64())
}
