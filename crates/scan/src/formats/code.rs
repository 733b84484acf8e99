//! Programs beside a model.

use crate::{
    content::Item,
    rules::{Findings, NATIVE_CODE, PYTHON_SOURCE},
};

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>, base: &str, head: &[u8]) {
    let native = match head {
        [0x7f, b'E', b'L', b'F', ..] => Some("an ELF program or library"),
        [b'M', b'Z', ..] if has_end(base, &[".exe", ".dll", ".pyd", ".sys"]) => Some("a Windows program or library"),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] => Some("a macOS program or library"),
        [b'#', b'!', ..] => Some("a script"),
        _ => None,
    };
    if let Some(kind) = native {
        findings.add(&NATIVE_CODE, &item.name, Some(0), format!("{kind}; a model needs none"));
    }
    if has_end(base, &[".py", ".pyc", ".pyw", ".ipynb"]) {
        let message = "Python code beside a model; transformers runs it if trust_remote_code is set: read it first";
        findings.add(&PYTHON_SOURCE, &item.name, None, message.to_owned());
    }
}

fn has_end(base: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| base.ends_with(end))
}
