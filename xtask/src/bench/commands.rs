//! Whole commands beside their peers' commands, by wall clock.

use super::{Row, alternate, engine::quantized, synthetic};
use crate::{
    interop::{numbers::scribe_gguf, quantize::llama_imatrix},
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use std::{path::Path, process::Command, time::Instant};

/// bf16 to each type beside llama-quantize.
pub(crate) fn quantize(peers: &Peers, repeat: usize, row: &mut dyn FnMut(Row)) -> Result<()> {
    quality(peers, row)?;
    let Some(model) = synthetic(peers)? else { return Ok(()) };
    let bf16 = quantized(peers, &model, "BF16")?;
    let folder = tempfile::tempdir_in(peers.cache())?;
    let (out, theirs) = (folder.path().join("ours.gguf"), folder.path().join("theirs.gguf"));
    let llama = peers.llama("llama-quantize")?;
    for (kind, aim) in [("Q4_K_M", 4.0), ("Q6_K", 4.0), ("Q8_0", 1.2), ("Q4_0", 1.0)] {
        let (ours, peer) = alternate(
            repeat,
            || {
                timed(
                    &out,
                    peers.coffer("quantize")?.arg(&bf16).args(["--type", kind, "--threads", "2", "--no-eval", "-o"]).arg(&out),
                )
            },
            || timed(&theirs, Command::new(&llama).arg(&bf16).arg(&theirs).args([kind, "2"])),
        )?;
        row(Row::cost(format!("quantize 2.2 GB to {kind}"), ours, peer, "s").aim(aim));
    }
    Ok(())
}

/// What a method of ours is given.
const LEARNED: usize = 32_768;
/// Tokens that the divergence is measured on.
const MEASURED: usize = 10_000;

/// Mean KL divergence of scribe-8m beside llama-quantize with an importance matrix of the same text, at equal size.
pub(crate) fn quality(peers: &Peers, row: &mut dyn FnMut(Row)) -> Result<()> {
    let folder = tempfile::tempdir_in(peers.cache())?;
    let at = |name: &str| folder.path().join(name);
    // The project's own texts are short; longer ones lie beside it on some machines.
    let texts = peers.shared().map_or_else(|| peers.root().join("assets/text"), |shared| shared.join("text"));
    let (learned, held_out) = (texts.join("calibration.txt"), texts.join("holdout.txt"));
    let (scribe, imatrix) = (at("scribe.gguf"), at("imatrix.gguf"));
    scribe_gguf(peers, &scribe)?;
    llama_imatrix(peers, &scribe, &learned, &imatrix)?;
    let divergence = |model: &Path| {
        let mut eval = peers.coffer("eval")?;
        eval.arg(model).arg("--against").arg(&scribe).arg("--text").arg(&held_out).arg("--json");
        let printed = output(eval.args(["--max-tokens", &MEASURED.to_string()]))?;
        let figures: serde_json::Value = serde_json::from_str(&printed)?;
        figures["kl_mean"].as_f64().context("eval prints a divergence")
    };
    for (kind, aim) in [("Q6_K", None), ("Q4_K_M", Some(0.9)), ("IQ4_XS", None), ("Q3_K_M", Some(0.9)), ("Q2_K", None)] {
        let theirs = at(&format!("{kind}.theirs.gguf"));
        let mut llama = Command::new(peers.llama("llama-quantize")?);
        run(llama.arg("--imatrix").arg(&imatrix).arg(&scribe).arg(&theirs).arg(kind))?;
        let peer = divergence(&theirs)?;
        for (method, flag) in
            [("imatrix", Some(("--imatrix", &imatrix))), ("text", Some(("--text", &learned))), ("nothing", None)]
        {
            let ours = at(&format!("{kind}.{method}.gguf"));
            let mut coffer = peers.coffer("quantize")?;
            coffer.arg(&scribe).args(["--type", kind, "--no-eval", "--max-tokens", &LEARNED.to_string(), "-o"]).arg(&ours);
            if let Some((flag, path)) = flag {
                coffer.arg(flag).arg(path);
            }
            run(&mut coffer)?;
            let size = |path: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.len() as f64);
            let larger = size(&ours)? / size(&theirs)? - 1.0;
            ensure!(larger.abs() < 0.005, "{kind}: ours is {:+.2} % as large", larger * 100.0);
            let name = format!("KL of scribe-8m in {kind}, knowing {method}");
            let cost = Row::cost(name, divergence(&ours)? * 1000.0, peer * 1000.0, "mnat");
            row(match aim {
                Some(times) if method == "text" => cost.at_most(times),
                _ => cost,
            });
        }
    }
    Ok(())
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
