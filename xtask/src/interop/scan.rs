//! The scanner on other people's malicious and harmless files.

use super::{NO_SHARED, Outcome};
use crate::peers::Peers;
use anyhow::{Result, ensure};
use coffer_scan::Severity;
use std::path::Path;

/// Every unsafe file is refused, no safe one is.
pub(crate) fn corpus(peers: &Peers, _folder: &Path) -> Result<Outcome> {
    let Some(shared) = peers.shared() else { return Ok(NO_SHARED) };
    let mut counts = [0, 0];
    for (i, (folder, refused)) in [("unsafe", true), ("safe", false)].into_iter().enumerate() {
        for entry in std::fs::read_dir(shared.join("malicious").join(folder))? {
            let path = entry?.path();
            let report = coffer_scan::scan(&path)?;
            ensure!((report.worst() == Some(Severity::Unsafe)) == refused, "{}: {:?}", path.display(), report.findings);
            counts[i] += 1;
        }
    }
    Ok(Outcome::Passed(format!("{} unsafe files refused, {} safe ones not", counts[0], counts[1])))
}
