//! Quantizing beside llama-quantize and llmcompressor: what is lost, and how long it takes.

use super::{Row, alternate, engine::quantized, synthetic};
use crate::{
    interop::{
        numbers::scribe_gguf,
        quantize::{llama_imatrix, llmcompressor},
    },
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use tempfile::TempDir;

/// All of it.
pub(crate) fn quantize(peers: &Peers, repeat: usize, row: &mut dyn FnMut(Row)) -> Result<()> {
    let quality = Quality::new(peers)?;
    quality.of_gguf(row)?;
    quality.of_mixtures(row)?;
    quality.of_compressed(row)?;
    speed(peers, repeat, row)
}

/// bf16 to each type beside llama-quantize, by wall clock.
fn speed(peers: &Peers, repeat: usize, row: &mut dyn FnMut(Row)) -> Result<()> {
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

/// Tokens that are learned from.
const LEARNED: usize = 32_768;
/// Tokens that the divergence is measured on.
const MEASURED: usize = 10_000;

/// Mean KL divergence of scribe-8m on held-out text; all tools learn from the same.
struct Quality<'a> {
    peers: &'a Peers,
    folder: TempDir,
    /// In bf16: a directory, and the same as GGUF.
    scribe: PathBuf,
    gguf: PathBuf,
    learned: PathBuf,
    held_out: PathBuf,
}

impl<'a> Quality<'a> {
    fn new(peers: &'a Peers) -> Result<Self> {
        let folder = tempfile::tempdir_in(peers.cache())?;
        // The project's own texts are short; longer ones lie beside it on some machines.
        let texts = peers.shared().map_or_else(|| peers.root().join("assets/text"), |shared| shared.join("text"));
        let (learned, held_out) = (texts.join("calibration.txt"), texts.join("holdout.txt"));
        let (scribe, gguf) = (peers.root().join("assets/models/scribe-8m"), folder.path().join("scribe.gguf"));
        scribe_gguf(peers, &gguf)?;
        Ok(Self { peers, folder, scribe, gguf, learned, held_out })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// In thousandths of a nat.
    fn divergence(&self, model: &Path) -> Result<f64> {
        let mut eval = self.peers.coffer("eval")?;
        eval.arg(model).arg("--against").arg(&self.scribe).arg("--text").arg(&self.held_out).arg("--json");
        let printed = output(eval.args(["--max-tokens", &MEASURED.to_string()]))?;
        let figures: serde_json::Value = serde_json::from_str(&printed)?;
        Ok(figures["kl_mean"].as_f64().context("eval prints a divergence")? * 1000.0)
    }

    /// What Coffer makes with these flags.
    fn ours(&self, name: &str, flags: &[&str], learned: Option<(&str, &Path)>) -> Result<PathBuf> {
        let ours = self.at(name);
        let mut coffer = self.peers.coffer("quantize")?;
        coffer.arg(&self.scribe).args(flags).args(["--no-eval", "--max-tokens", &LEARNED.to_string(), "-o"]).arg(&ours);
        if let Some((flag, path)) = learned {
            coffer.arg(flag).arg(path);
        }
        run(&mut coffer)?;
        Ok(ours)
    }

    /// Beside llama-quantize with an importance matrix, at equal size.
    fn of_gguf(&self, row: &mut dyn FnMut(Row)) -> Result<()> {
        let imatrix = self.at("imatrix.gguf");
        llama_imatrix(self.peers, &self.gguf, &self.learned, &imatrix)?;
        for (kind, aim) in [("Q6_K", None), ("Q4_K_M", Some(0.9)), ("IQ4_XS", None), ("Q3_K_M", Some(0.9)), ("Q2_K", None)] {
            let theirs = self.at(&format!("{kind}.theirs.gguf"));
            let mut llama = Command::new(self.peers.llama("llama-quantize")?);
            run(llama.arg("--imatrix").arg(&imatrix).arg(&self.gguf).arg(&theirs).arg(kind))?;
            let peer = self.divergence(&theirs)?;
            let ways =
                [("imatrix", Some(("--imatrix", &*imatrix))), ("text", Some(("--text", &*self.learned))), ("nothing", None)];
            for (method, learned) in ways {
                // Of this one the mixture depends on whether columns are known to differ, and so does the size.
                if kind == "IQ4_XS" && learned.is_none() {
                    continue;
                }
                let ours = self.ours(&format!("{kind}.{method}.gguf"), &["--type", kind], learned)?;
                let larger = size(&ours)? / size(&theirs)? - 1.0;
                ensure!(larger.abs() < 0.005, "{kind}: ours is {:+.2} % as large", larger * 100.0);
                let name = format!("KL of scribe-8m in {kind}, knowing {method}");
                let cost = Row::cost(name, self.divergence(&ours)?, peer, "mnat");
                row(match aim {
                    Some(times) if method == "text" => cost.at_most(times),
                    _ => cost,
                });
            }
        }
        Ok(())
    }

    /// A measured mixture beside the fixed one of the same size.
    fn of_mixtures(&self, row: &mut dyn FnMut(Row)) -> Result<()> {
        let learned = Some(("--text", &*self.learned));
        for kind in ["Q5_K_M", "Q4_K_M", "Q3_K_M"] {
            let fixed = self.ours(&format!("{kind}.fixed.gguf"), &["--type", kind], learned)?;
            let target = size(&fixed)?.to_string();
            let chosen = self.ours(&format!("{kind}.chosen.gguf"), &["--target-size", &target], learned)?;
            ensure!(size(&chosen)? <= size(&fixed)?, "the mixture chosen for {kind} is larger");
            let name = format!("KL of scribe-8m, types chosen for the size of {kind}, beside {kind}");
            row(Row::cost(name, self.divergence(&chosen)?, self.divergence(&fixed)?, "mnat").at_most(1.0));
        }
        Ok(())
    }

    /// Four bits for vLLM beside llmcompressor's rounding and its GPTQ.
    fn of_compressed(&self, row: &mut dyn FnMut(Row)) -> Result<()> {
        let ours = self.divergence(&self.ours("W4A16", &["--type", "W4A16"], Some(("--text", &self.learned)))?)?;
        for (method, aim) in [("rtn", 0.75), ("gptq", 1.0)] {
            let theirs = self.at(method);
            llmcompressor(self.peers, &self.scribe, method, &self.learned, LEARNED, &theirs)?;
            let name = format!("KL of scribe-8m in W4A16, knowing text, beside llmcompressor's {method}");
            row(Row::cost(name, ours, self.divergence(&theirs)?, "mnat").at_most(aim));
        }
        Ok(())
    }
}

/// Bytes of a file.
fn size(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path)?.len() as f64)
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
