//! Quantizing in parts, by the example that users begin with, on a local Ray.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output, run},
};
use anyhow::{Result, ensure};
use std::{fs, path::Path, process::Command};

const PARTS: &str = "4";

/// The example in the documentation makes what one process makes, and its receipt leads there.
pub(crate) fn ray(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let [whole, out] = ["whole.gguf", "out.gguf"].map(|name| folder.join(name));
    let (model, text) = (scribe(peers), peers.root().join("assets/text/calibration.txt"));
    run(peers.coffer("quantize")?.arg(&model).args(["--type", "Q4_K_M", "-o"]).arg(&whole).arg("--text").arg(&text))?;
    let mut example = Command::new(peers.ray_python()?);
    example.arg(peers.root().join("docs/examples/ray_quantize.py")).arg(&model).arg("Q4_K_M").arg(&out).arg(PARTS);
    example.arg("--text").arg(&text).env("COFFER", peers.coffer("quantize")?.get_program()).env("RAY_USAGE_STATS_ENABLED", "0");
    output(&mut example)?;
    ensure!(fs::read(&out)? == fs::read(&whole)?, "the parts do not make the bytes of one process");
    let mut verify = peers.coffer("verify")?;
    verify.arg(folder.join("out.gguf.json")).args(["--re-execute", "--source"]).arg(&model);
    run(verify.arg("--result").arg(&whole).arg("--text").arg(&text))?;
    let left = fs::read_dir(folder)?.count();
    ensure!(left == 3, "{left} files are left");
    Ok(Outcome::Passed(format!(
        "{PARTS} tasks make the {} bytes of one process, and their receipt leads there",
        fs::metadata(&out)?.len()
    )))
}
