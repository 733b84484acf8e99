//! `coffer scan`: findings about untrusted files; exit 3 if one is unsafe.

use crate::{exit::Refused, output};
use anyhow::{Context, Result};
use coffer_scan::{Report, Severity};
use std::path::PathBuf;

/// Look for what could hurt whoever loads a model: code in pickles, archives that lie, headers that contradict
/// themselves. Nothing is loaded or run. Exit 3 if a file is unsafe.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print findings as JSON
    #[arg(long)]
    json: bool,
}

/// Scans and prints.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut report = Report::default();
    for path in &args.paths {
        let one = coffer_scan::scan(path).with_context(|| path.display().to_string())?;
        report.files += one.files;
        report.findings.extend(one.findings);
    }
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    match report.findings.iter().filter(|f| f.severity == Severity::Unsafe).count() {
        0 => Ok(()),
        n => Err(Refused(format!("{n} unsafe finding{}; do not load these files", if n == 1 { "" } else { "s" })).into()),
    }
}

/// One line a finding, then the count.
pub(crate) fn print(report: &Report) {
    for f in &report.findings {
        let severity = match f.severity {
            Severity::Unsafe => "UNSAFE ",
            Severity::Warning => "warning",
            _ => "note   ",
        };
        let at = f.offset.map(|o| format!(" at byte {o}")).unwrap_or_default();
        outln!("{severity}  {}{at}: {} [{}]", f.file, f.message, f.rule);
    }
    outln!("{} files scanned, {} findings", report.files, report.findings.len());
}
