//! Step 1: what the model is, and whether a file can hurt whoever loads it.

use super::{Demo, say};
use crate::{
    commands::{inspect, scan},
    exit::Refused,
};
use anyhow::{Result, ensure};
use coffer_assess::exhibits::RefusedFile;
use coffer_scan::Severity;
use coffer_store::Model;

/// A pickle whose loader runs a command: `os.system("echo …")`. Protocol 0, so that it can be read here.
const TRAP: &[u8] = b"cos\nsystem\n(S'echo this would have run on your machine'\ntR.";

/// Inspects and scans the demo's model, then refuses a malicious file.
pub(super) fn run(demo: &Demo) -> Result<(Model, RefusedFile)> {
    say::step(1, "Look", "what is this model, and can it hurt whoever loads it?");
    let path = demo.model();
    let model = coffer_store::open(&path, &[])?;
    say::line(&inspect::Summary::of(&model).to_string());
    let clean = coffer_scan::scan(&path)?;
    say::line(&format!("scan          {} files, {} findings", clean.files, clean.findings.len()));
    if clean.worst() == Some(Severity::Unsafe) {
        scan::print(&clean);
        return Err(Refused("the demo's own model is unsafe; was it changed?".to_owned()).into());
    }

    let trap = demo.work().join("pytorch_model.bin");
    std::fs::write(&trap, TRAP)?;
    let report = coffer_scan::scan(&trap)?;
    ensure!(report.worst() == Some(Severity::Unsafe), "the scanner let a malicious pickle pass");
    say::line("a pytorch_model.bin that runs `echo this would have run on your machine` when it is loaded:");
    for finding in &report.findings {
        say::refused(&format!("{} [{}]", finding.message, finding.rule));
    }
    let findings =
        report.findings.into_iter().map(|f| coffer_scan::Finding { file: "pytorch_model.bin".to_owned(), ..f }).collect();
    let would_have = "run `echo this would have run on your machine` in a shell".to_owned();
    Ok((model, RefusedFile { file: "pytorch_model.bin".to_owned(), would_have, findings }))
}
