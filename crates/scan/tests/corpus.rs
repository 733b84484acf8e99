//! The corpus of picklescan: every unsafe file is refused, no safe one is.

use coffer_scan::{Severity, scan};
use std::path::{Path, PathBuf};

#[test]
fn unsafe_files_are_refused_and_safe_ones_are_not() {
    let shared = std::env::var_os("COFFER_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from)
        .join("malicious");
    if !shared.is_dir() {
        println!("skipped: {} is not there", shared.display());
        return;
    }
    for (folder, expected) in [("unsafe", true), ("safe", false)] {
        for entry in std::fs::read_dir(shared.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let report = scan(&path).unwrap();
            let refused = report.worst() == Some(Severity::Unsafe);
            assert_eq!(refused, expected, "{}: {:#?}", path.display(), report.findings);
        }
    }
}

#[test]
fn the_demo_model_has_no_findings() {
    let report = scan(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models")).unwrap();
    assert!(report.files > 0 && report.findings.is_empty(), "{:#?}", report.findings);
}
