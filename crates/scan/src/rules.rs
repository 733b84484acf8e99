//! What can be found: every rule with its severity, and the list of findings that a scan builds.

use crate::{
    Finding,
    Severity::{self, Note, Unsafe, Warning},
};
use std::collections::HashMap;

/// A rule of the scanner.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable identifier.
    pub id: &'static str,
    /// How bad a finding of this rule is.
    pub severity: Severity,
}

macro_rules! rules {
    ($($name:ident = $severity:ident $id:literal;)*) => {
        $(pub(crate) const $name: Rule = Rule { id: $id, severity: $severity };)*
        /// All rules, in the order of `docs/scan.md`.
        pub const RULES: &[Rule] = &[$($name),*];
    };
}

rules! {
    PICKLE_DANGEROUS_GLOBAL = Unsafe "pickle-dangerous-global";
    PICKLE_UNRESOLVED_GLOBAL = Unsafe "pickle-unresolved-global";
    PICKLE_COMPUTED_CALL = Unsafe "pickle-computed-call";
    PICKLE_PATCHED_GLOBAL = Unsafe "pickle-patched-global";
    PICKLE_BROKEN = Unsafe "pickle-broken";
    PICKLE_UNKNOWN_GLOBAL = Warning "pickle-unknown-global";
    UNKNOWN_CONTENT = Warning "unknown-content";
    NUMPY_OBJECT_ARRAY = Warning "numpy-object-array";
    NUMPY_MALFORMED = Unsafe "numpy-malformed";
    KERAS_LAMBDA = Unsafe "keras-lambda";
    SAFETENSORS_MALFORMED = Unsafe "safetensors-malformed";
    GGUF_MALFORMED = Unsafe "gguf-malformed";
    TEMPLATE_ESCAPE = Unsafe "template-escape";
    TEMPLATE_UNUSUAL = Warning "template-unusual";
    TEMPLATE_INCLUDE = Warning "template-include";
    CUSTOM_CODE = Warning "custom-code";
    PYTHON_SOURCE = Warning "python-source";
    NATIVE_CODE = Warning "native-code";
    JSON_MALFORMED = Warning "json-malformed";
    ARCHIVE_OPAQUE = Unsafe "archive-opaque";
    ARCHIVE_ENCRYPTED = Warning "archive-encrypted";
    ARCHIVE_FAKE_ENCRYPTION = Unsafe "archive-fake-encryption";
    ARCHIVE_MISMATCH = Unsafe "archive-mismatch";
    ARCHIVE_MALFORMED = Unsafe "archive-malformed";
    ARCHIVE_PATH = Unsafe "archive-path";
    ARCHIVE_CHECKSUM = Warning "archive-checksum";
    ARCHIVE_ODD_FLAGS = Warning "archive-odd-flags";
    SYMLINK = Warning "symlink-outside";
    SPECIAL_FILE = Warning "special-file";
    HDF5 = Note "hdf5-not-parsed";
    LIMIT = Unsafe "scan-limit";
}

/// Findings of one rule in one file; more add nothing.
const MAX_PER_RULE_AND_FILE: u32 = 50;
/// Findings of a whole scan; the one that says so is [`LIMIT`].
const MAX_FINDINGS: usize = 20_000;

/// Findings as they come.
#[derive(Default)]
pub(crate) struct Findings {
    found: Vec<Finding>,
    counts: HashMap<(String, &'static str), u32>,
    /// Bytes decompressed so far, over all files.
    pub(crate) decompressed: u64,
}

impl Findings {
    pub(crate) fn add(&mut self, rule: &Rule, file: &str, offset: Option<u64>, message: String) {
        if self.found.len() >= MAX_FINDINGS {
            return;
        }
        let last = self.found.len() + 1 == MAX_FINDINGS;
        let rule = if last { &LIMIT } else { rule };
        let count = self.counts.entry((file.to_owned(), rule.id)).or_default();
        *count += 1;
        if *count <= MAX_PER_RULE_AND_FILE {
            let message = if last { format!("more than {MAX_FINDINGS} findings; the rest is left out") } else { message };
            self.found.push(Finding {
                severity: rule.severity,
                rule: rule.id.to_owned(),
                file: file.to_owned(),
                offset,
                message,
            });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn into_sorted(mut self) -> Vec<Finding> {
        self.found.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        self.found
    }
}
