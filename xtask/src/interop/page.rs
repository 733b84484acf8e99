//! The demo's report in a real browser.

use super::Outcome;
use crate::peers::{Peers, output, run};
use anyhow::{Result, ensure};
use std::{path::Path, process::Command};

/// The demo in an empty folder; its page at phone and desktop width, light and dark: no overflow, no error, nothing fetched.
pub(crate) fn report_in_a_browser(peers: &Peers, folder: &Path) -> Result<Outcome> {
    run(peers.coffer("demo")?.current_dir(folder))?;
    let left: Vec<_> = std::fs::read_dir(folder)?.map(|e| Ok(e?.file_name())).collect::<std::io::Result<_>>()?;
    ensure!(left == ["coffer-demo"], "the demo left {left:?}");
    let chromium = peers.debian("chromium")?;
    let modules = peers.node()?;
    let script = modules.join("report.mjs");
    std::fs::copy(peers.script("report.mjs"), &script)?;
    let shots = peers.root().join("target/report");
    std::fs::create_dir_all(&shots)?;
    let page = folder.join("coffer-demo/report.html");
    let printed = output(Command::new("node").arg(script).arg(chromium).arg(page).arg(&shots).current_dir(modules))?;
    Ok(Outcome::Passed(format!("{}; pictures in {}", printed.trim(), shots.display())))
}
