//! `.npy`: a header in Python syntax, then raw numbers, or a pickle if the array holds objects.
//!
//! Source: `numpy.lib.format`, versions 1 to 3.

use crate::{
    content::{Item, Judged},
    pickle::{self, Belief},
    rules::{Findings, NUMPY_MALFORMED, NUMPY_OBJECT_ARRAY},
};
use std::io;

/// numpy itself refuses longer headers unless pickles are allowed.
const MAX_HEADER: u32 = 1 << 20;

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<Judged> {
    let head = item.source.read_up_to(0, 12)?;
    let (start, len) = match head[..] {
        [_, _, _, _, _, _, 1, _, a, b, ..] => (10, u32::from(u16::from_le_bytes([a, b]))),
        [_, _, _, _, _, _, 2 | 3, _, a, b, c, d] => (12, u32::from_le_bytes([a, b, c, d])),
        _ => (0, u32::MAX),
    };
    let data = start + u64::from(len);
    if len > MAX_HEADER || data > item.source.len() {
        let message = format!("a numpy header of {len} bytes in a file of {}; no loader could read it", item.source.len());
        findings.add(&NUMPY_MALFORMED, &item.name, Some(0), message);
        return Ok(Judged::Header);
    }
    let header = item.source.read_up_to(start, len as usize)?;
    if !holds_objects(&String::from_utf8_lossy(&header)) {
        return Ok(Judged::Header);
    }
    let message = "an array of Python objects, which numpy stores as a pickle: load it with allow_pickle=False only";
    findings.add(&NUMPY_OBJECT_ARRAY, &item.name, Some(data), message.to_owned());
    pickle::scan(findings, item, data, Belief::Certain)?;
    Ok(Judged::Whole)
}

/// Whether one of the quoted type codes is `O`: `'|O'`, `'O8'`, `'<O'`.
fn holds_objects(header: &str) -> bool {
    header.split(['\'', '"']).skip(1).step_by(2).any(|code| {
        let code = code.trim_start_matches(['|', '<', '>', '=']);
        // An escape could spell anything.
        code == "object" || code.contains('\\') || code.strip_prefix('O').is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::holds_objects;

    #[test]
    fn objects_are_recognized() {
        for header in ["{'descr': '|O', 'fortran_order': False}", "{\"descr\": \"O8\"}", "{'descr': [('a', '<f4'), ('b', '|O')]}"]
        {
            assert!(holds_objects(header), "{header}");
        }
        assert!(!holds_objects("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"));
    }
}
