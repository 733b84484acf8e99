//! Pickles: one after another in a file, as PyTorch's old format and plain `pickle.load` loops read them.

mod globals;
mod machine;
mod stdlib;
mod values;

use crate::{
    Severity,
    content::Item,
    rules::{Findings, LIMIT, PICKLE_BROKEN},
    source::Cursor,
};
use machine::{End, MAX_OPERATIONS, walk};
use std::io;

/// Whether something is known to be a pickle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Its name or place says so; damage is a finding.
    Certain,
    /// Nothing speaks against it; only what could really run is a finding.
    Guess,
}

/// Scans the pickles from `start` on. Returns whether the first one was whole.
pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>, start: u64, belief: Belief) -> io::Result<bool> {
    let (mut position, mut budget, mut first_whole) = (start, MAX_OPERATIONS, false);
    while position < item.source.len() {
        let walked = walk(Cursor::new(item.source, position), budget)?;
        budget -= walked.operations;
        let first = position == start;
        let whole = walked.end == End::Stop;
        // Text that happens to begin like a pickle neither ends like one nor calls anything.
        let believed = belief == Belief::Certain || whole || walked.calls;
        let damning = walked.hits.iter().any(|h| h.rule.severity == Severity::Unsafe);
        if believed && (belief == Belief::Certain && first || whole || damning) {
            for hit in &walked.hits {
                findings.add(hit.rule, &item.name, Some(hit.offset), hit.message.clone());
            }
        }
        match walked.end {
            End::Stop => position = walked.position,
            End::Limit(what) => {
                findings.add(&LIMIT, &item.name, Some(walked.position), format!("a pickle with {what}; it was not judged"));
                break;
            }
            // Behind the first pickle anything may follow: PyTorch's old format has its tensors there.
            End::Broken(reason) if first && belief == Belief::Certain => {
                let message = format!("a pickle that no loader could read: {reason}; the rest was not judged");
                findings.add(&PICKLE_BROKEN, &item.name, Some(walked.position), message);
                break;
            }
            _ => break,
        }
        first_whole |= first;
    }
    Ok(first_whole)
}
