//! Static scanner for model files: untrusted bytes in, findings out. Loads nothing, runs nothing, depends on no
//! other crate of the project.
//!
//! Files are judged by their content, whatever they are called; a name only adds to what a loader would believe. Memory
//! and time are bounded: files are read by position, decompression stops at a limit, and what hits a limit is reported
//! as unsafe, never passed over. `docs/scan.md` lists every rule and what the scanner does not promise.

mod archive;
mod content;
mod escapes;
mod formats;
mod pickle;
mod rules;
mod source;
mod walk;

pub use rules::{RULES, Rule};

use rules::Findings;
use source::Source;
use std::{io, path::Path};

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

/// Scans a file, or every file below a directory. Symbolic links below it are not followed.
///
/// # Errors
/// Returns the error of the first file or directory that cannot be read, with its path.
pub fn scan(path: &Path) -> io::Result<Report> {
    let mut findings = Findings::default();
    let files = walk::scan_path(&mut findings, path)?;
    Ok(Report { files, findings: findings.into_sorted() })
}

/// Scans bytes in memory as if they were a file called `name`.
pub fn scan_bytes(name: &str, bytes: &[u8]) -> Report {
    let mut findings = Findings::default();
    // Reading a slice cannot fail; were that to change, an unjudged file must not pass.
    if let Err(error) = content::scan(&mut findings, &content::Item::file(name, &bytes as &dyn Source)) {
        findings.add(&rules::LIMIT, name, None, format!("it could not be read to its end: {error}"));
    }
    Report { files: 1, findings: findings.into_sorted() }
}
