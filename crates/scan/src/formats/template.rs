//! Chat templates: Jinja that some loaders render without a sandbox (CVE-2024-34359).

use crate::{
    content::Item,
    escapes::{Escapes, unescape},
    rules::{Findings, LIMIT, TEMPLATE_ESCAPE, TEMPLATE_INCLUDE, TEMPLATE_UNUSUAL},
};
use std::io;

const MAX_TEMPLATE: usize = 4 << 20;

/// What a template needs in order to leave Jinja for Python, as written without white space.
const ESCAPES: [&str; 23] = [
    "__class__",
    "__globals__",
    "__builtins__",
    "__subclasses__",
    "__mro__",
    "__base__",
    "__bases__",
    "__init__",
    "__import__",
    "__dict__",
    "__getattribute__",
    "__code__",
    "__loader__",
    "__self__",
    "__call__",
    "__reduce__",
    "|attr(",
    ".mro(",
    "lipsum.",
    "func_globals",
    "gi_frame",
    "_TemplateReference",
    "popen(",
];

/// Scans a whole file as one template.
pub(crate) fn scan_file(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let bytes = item.source.read_up_to(0, MAX_TEMPLATE)?;
    if bytes.len() as u64 != item.source.len() {
        findings.add(&LIMIT, &item.name, None, format!("a template of more than {MAX_TEMPLATE} bytes; it was not judged"));
    }
    scan(findings, item, None, &String::from_utf8_lossy(&bytes));
    Ok(())
}

/// Scans the text of a template; text without Jinja expressions or statements is none.
pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>, offset: Option<u64>, text: &str) {
    for inner in expressions(text) {
        let bytes = unescape(inner.as_bytes(), Escapes::All);
        let plain = String::from_utf8_lossy(&bytes);
        let dense: String = plain.chars().filter(|c| !c.is_whitespace()).collect();
        if let Some(needle) = ESCAPES.iter().find(|needle| dense.contains(**needle)) {
            let message = format!("a chat template uses {needle:?}, which reaches from Jinja into Python: {}", excerpt(inner));
            findings.add(&TEMPLATE_ESCAPE, &item.name, offset, message);
        } else if dense.contains("__") || dense.contains("\\N{") {
            let message = format!("a chat template has a double underscore, as Python's internals do: {}", excerpt(inner));
            findings.add(&TEMPLATE_UNUSUAL, &item.name, offset, message);
        }
        let statement = plain.trim_start_matches(['-', '+']).trim_start();
        if ["include", "import", "extends", "from "].iter().any(|word| statement.starts_with(word)) {
            let message = format!("a chat template loads another template: {}", excerpt(inner));
            findings.add(&TEMPLATE_INCLUDE, &item.name, offset, message);
        }
    }
}

/// What stands between `{{` and `}}` or `{%` and `%}`; an unclosed one runs to the end.
fn expressions(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (start, close) = match (rest.find("{{"), rest.find("{%")) {
            (Some(a), Some(b)) if a < b => (a, "}}"),
            (Some(a), None) => (a, "}}"),
            (_, Some(b)) => (b, "%}"),
            (None, None) => return None,
        };
        let inner = &rest[start + 2..];
        let end = inner.find(close).unwrap_or(inner.len());
        rest = inner.get(end + 2..).unwrap_or_default();
        Some(&inner[..end])
    })
}

fn excerpt(text: &str) -> String {
    let short: String = text.trim().chars().take(80).collect();
    format!("{short:?}")
}
