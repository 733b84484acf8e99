//! HDF5 (Keras): not parsed; a Lambda layer shows in the configuration, which is stored as plain text.

use crate::{
    content::Item,
    rules::{Findings, HDF5, KERAS_LAMBDA},
};
use std::io;

/// Keras writes the configuration among the first attributes.
const MAX_SEARCH: usize = 64 << 20;

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let bytes = item.source.read_up_to(0, MAX_SEARCH)?;
    for needle in [&b"\"class_name\": \"Lambda\""[..], b"\"class_name\":\"Lambda\""] {
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            let message = "a Keras Lambda layer, which holds Python bytecode that runs when the model is loaded";
            findings.add(&KERAS_LAMBDA, &item.name, Some(at as u64), message.to_owned());
        }
    }
    let message = "an HDF5 file; only a plain search for Lambda layers was made";
    findings.add(&HDF5, &item.name, None, message.to_owned());
    Ok(())
}
