//! Backslash escapes of Python string literals.

/// Which escapes a piece of text may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// `\uXXXX` and `\UXXXXXXXX`, as in pickle's UNICODE.
    Unicode,
    /// All others, as in a literal of bytes and in pickle's STRING.
    Bytes,
    /// Both, as in Jinja's strings.
    All,
}

/// Resolves the escapes in `text`; what is no valid escape stays as it is.
pub(crate) fn unescape(text: &[u8], escapes: Escapes) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = if *first == b'\\' { escape(tail, escapes) } else { None };
        match escaped {
            Some((c, len)) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &tail[len..];
            }
            None => out.push(*first),
        }
    }
    out
}

/// The character that `tail`, behind a backslash, begins with, and the bytes it takes.
fn escape(tail: &[u8], escapes: Escapes) -> Option<(char, usize)> {
    let (unicode, bytes) = (escapes != Escapes::Bytes, escapes != Escapes::Unicode);
    let number =
        |digits: &[u8], radix| u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok().and_then(char::from_u32);
    match tail.first()? {
        b'u' if unicode => Some((number(tail.get(1..5)?, 16)?, 5)),
        b'U' if unicode => Some((number(tail.get(1..9)?, 16)?, 9)),
        b'x' if bytes => Some((number(tail.get(1..3)?, 16)?, 3)),
        b'0'..=b'7' if bytes => {
            let len = tail.iter().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            Some((number(&tail[..len], 8)?, len))
        }
        b'n' if bytes => Some(('\n', 1)),
        b't' if bytes => Some(('\t', 1)),
        b'r' if bytes => Some(('\r', 1)),
        c @ (b'\\' | b'\'' | b'"') if bytes => Some((char::from(*c), 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(unescape(br"\u006fs", Escapes::Unicode), b"os");
        assert_eq!(unescape(br"\x6fs\n", Escapes::Unicode), br"\x6fs\n");
        assert_eq!(unescape(br"\x6f\163\t\\'", Escapes::Bytes), b"os\t\\'");
        assert_eq!(unescape(br"\x5f\u005F\U0000005f\137", Escapes::All), b"____");
        assert_eq!(unescape(br"a\", Escapes::All), br"a\");
        assert_eq!(unescape(br"\u00 \x5", Escapes::All), br"\u00 \x5");
    }
}
