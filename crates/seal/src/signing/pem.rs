//! PEM files (RFC 7468), the text around the blocks ignored.

use super::SigningError;
use crate::keys::read_text;
use base64ct::{Base64, Encoding};
use std::path::Path;
use zeroize::Zeroizing;

/// One `-----BEGIN label-----` block, decoded.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// All blocks of a file, in their order.
pub(super) fn read(path: &Path) -> Result<Vec<Block>, SigningError> {
    let text = read_text(path)?;
    parse(&text).map_err(|(line, reason)| SigningError::Pem { path: path.display().to_string(), line, reason })
}

/// One block, with lines of 64 characters.
pub(super) fn write(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(Base64::encode_string(der));
    // Reserved at once: growing would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(base64.len() + base64.len() / 64 + 2 * label.len() + 64));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (at, character) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// On failure the line, from 1, and the reason.
fn parse(text: &str) -> Result<Vec<Block>, (usize, &'static str)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, &str, Zeroizing<String>)> = None;
    for (at, line) in text.lines().map(str::trim).enumerate() {
        let boundary = |kind: &str| line.strip_prefix("-----")?.strip_prefix(kind)?.strip_suffix("-----");
        match (&mut open, boundary("BEGIN "), boundary("END ")) {
            (None, Some(label), _) => open = Some((at + 1, label, Zeroizing::new(String::with_capacity(text.len())))),
            (None, _, Some(_)) => return Err((at + 1, "END without BEGIN")),
            (None, ..) => {}
            (Some(_), Some(_), _) => return Err((at + 1, "BEGIN inside a block")),
            (Some((begin, label, base64)), _, Some(end)) => {
                if label != &end {
                    return Err((at + 1, "END does not name what BEGIN named"));
                }
                blocks.push(Block { label: (*label).to_owned(), der: decode(base64).ok_or((*begin, "damaged base64"))? });
                open = None;
            }
            (Some((.., base64)), ..) => base64.push_str(line),
        }
    }
    match open {
        Some((begin, ..)) => Err((begin, "the block has no END")),
        None => Ok(blocks),
    }
}

fn decode(base64: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; base64.len() / 4 * 3 + 3]);
    let length = Base64::decode(base64, &mut der).ok()?.len();
    der.truncate(length);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_among_other_text() {
        let text = format!("subject=CN = x\n{}Bag\r\n{}", *write("A", &[7; 100]), write("B C", b"\0").replace('\n', "\r\n"));
        let blocks = parse(&text).unwrap();
        assert_eq!(blocks.iter().map(|b| (b.label.as_str(), b.der.len())).collect::<Vec<_>>(), [("A", 100), ("B C", 1)]);
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let cases = [
            ("-----BEGIN A-----\nAA==\n", (1, "the block has no END")),
            ("\n-----END A-----\n", (2, "END without BEGIN")),
            ("-----BEGIN A-----\n-----BEGIN A-----\n", (2, "BEGIN inside a block")),
            ("-----BEGIN A-----\nAA==\n-----END B-----\n", (3, "END does not name what BEGIN named")),
            ("-----BEGIN A-----\nA\n-----END A-----\n", (1, "damaged base64")),
            ("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nAA==\n-----END A-----\n", (1, "damaged base64")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).err(), Some(expected), "{text}");
        }
    }
}
