//! Static scanner for model files: untrusted bytes in, findings out. Loads nothing, runs nothing, depends on no
//! other crate of the project.

use std::path::Path;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Could not be judged, or is out of the ordinary.
    Warning,
    /// Loading this can run code or corrupt memory.
    Unsafe,
}

/// One thing found in one file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable identifier, e.g. `pickle-dangerous-global`.
    pub rule: String,
    /// File, with `!member` for members of archives.
    pub file: String,
    /// Byte offset in the (decompressed) member, where known.
    pub offset: Option<u64>,
    /// What was found and what it means.
    pub message: String,
}

/// The result of a scan.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Files that were looked at.
    pub files: u64,
    /// What was found, in path and offset order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst severity; `None` if nothing was found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }
}

/// Scans a file, or every file below a directory.
pub fn scan(path: &Path) -> std::io::Result<Report> {
    let _ = path;
    todo!()
}
