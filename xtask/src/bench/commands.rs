//! Whole commands beside their peers' commands, by wall clock.

use super::{Row, alternate, engine::quantized, synthetic};
use crate::peers::{Peers, run};
use anyhow::{Context, Result};
use std::{path::Path, process::Command, time::Instant};

/// bf16 to each type beside llama-quantize.
pub(crate) fn quantize(peers: &Peers, repeat: usize) -> Result<Vec<Row>> {
    let Some(model) = synthetic(peers)? else { return Ok(Vec::new()) };
    let bf16 = quantized(peers, &model, "BF16")?;
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

/// Seconds of a command that writes `out`, which is removed first.
fn timed(out: &Path, command: &mut Command) -> Result<f64> {
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    let start = Instant::now();
    run(command).with_context(|| out.display().to_string())?;
    Ok(start.elapsed().as_secs_f64())
}
