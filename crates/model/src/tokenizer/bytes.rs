//! How vocabularies spell bytes: GPT-2's printable stand-ins, and SentencePiece's `▁` and `<0xNN>`.

use super::{TokenizerError, invalid};
use serde_json::Value;

/// How the pieces of a vocabulary spell the bytes they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2: each byte is one printable character.
    ByteLevel,
    /// SentencePiece: text with `▁` for a space, and `<0xNN>` for single bytes.
    SentencePiece,
}

impl Spelling {
    /// Finds the spelling from the decoder of a `tokenizer.json`.
    pub(super) fn of(decoder: &Value) -> Result<Self, TokenizerError> {
        let steps = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
        let has = |kind: &str| steps.iter().any(|s| s["type"] == kind);
        if has("ByteLevel") {
            Ok(Self::ByteLevel)
        } else if has("Metaspace") || has("ByteFallback") {
            Ok(Self::SentencePiece)
        } else {
            let kind = decoder["type"].as_str().unwrap_or("none");
            Err(invalid(format!(
                "tokenizer.json: decoder `{kind}` is not supported; supported: ByteLevel, ByteFallback, Metaspace"
            )))
        }
    }

    /// The bytes that `piece` stands for.
    pub(super) fn bytes(self, piece: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => piece.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| piece.as_bytes().to_vec()),
            Self::SentencePiece => match byte_piece(piece) {
                Some(byte) => vec![byte],
                None => piece.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// The byte of `<0xNN>`.
pub(super) fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// GPT-2's `bytes_to_unicode` undone: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards in order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_stand_in() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(Spelling::ByteLevel.bytes("Ġthe"), b" the");
        assert_eq!(Spelling::ByteLevel.bytes("Ċ"), b"\n");
        assert_eq!(Spelling::ByteLevel.bytes("<a b>"), b"<a b>");
    }

    #[test]
    fn sentencepiece_spells_spaces_and_bytes() {
        assert_eq!(Spelling::SentencePiece.bytes("▁the"), b" the");
        assert_eq!(Spelling::SentencePiece.bytes("<0xE2>"), [0xe2]);
        assert_eq!(Spelling::SentencePiece.bytes("<0xE>"), b"<0xE>");
    }
}
