//! From the bytes of tokens to text that may be shown: characters are never split, and nothing of a stop string gets out.

/// Holds bytes back until it is certain what they are. The text does not depend on where tokens were cut.
pub(crate) struct TextFilter {
    stops: Vec<Vec<u8>>,
    held: Vec<u8>,
    released: usize,
}

/// What a push let out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Text, invalid UTF-8 replaced by U+FFFD.
    pub(crate) text: String,
    /// Whether a stop string was found; nothing may follow.
    pub(crate) stopped: bool,
}

impl TextFilter {
    /// `stops` must not hold an empty string.
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().map(|s| s.as_bytes().to_vec()).collect(), held: Vec::new(), released: 0 }
    }

    /// Bytes of input that were let out so far.
    pub(crate) fn released(&self) -> usize {
        self.released
    }

    /// Takes the bytes of one token. The stop string that is complete first wins, the longest of those that end together.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Released {
        let seen = self.held.len();
        self.held.extend_from_slice(bytes);
        if let Some(start) = self.stop_after(seen) {
            self.held.truncate(start);
            return Released { text: self.finish(), stopped: true };
        }
        let certain = self.held.len() - self.unfinished_stop();
        let (text, used) = decode(self.held.get(..certain).unwrap_or_default());
        self.release(used);
        Released { text, stopped: false }
    }

    /// The end of the input: lets out what was held back.
    pub(crate) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.release(self.held.len());
        text
    }

    fn release(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.released += bytes;
    }

    /// Where the first stop string starts that ends after the first `seen` held bytes.
    fn stop_after(&self, seen: usize) -> Option<usize> {
        (seen + 1..=self.held.len()).find_map(|end| {
            let text = self.held.get(..end)?;
            self.stops.iter().filter(|stop| text.ends_with(stop)).map(|stop| end - stop.len()).min()
        })
    }

    /// Length of the longest end of the held bytes that may become a stop string.
    fn unfinished_stop(&self) -> usize {
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1).min(self.held.len());
        (1..=longest)
            .rev()
            .find(|n| {
                let tail = self.held.get(self.held.len() - n..).unwrap_or_default();
                self.stops.iter().any(|stop| stop.starts_with(tail))
            })
            .unwrap_or(0)
    }
}

/// Text of all but an unfinished character at the end, and the bytes that it took.
fn decode(bytes: &[u8]) -> (String, usize) {
    let unfinished = bytes.utf8_chunks().last().map_or(0, |chunk| {
        let tail = chunk.invalid();
        // `error_len` is none exactly if more bytes could make the character whole.
        match std::str::from_utf8(tail) {
            Err(e) if e.error_len().is_none() => tail.len(),
            _ => 0,
        }
    });
    let used = bytes.len() - unfinished;
    (String::from_utf8_lossy(bytes.get(..used).unwrap_or_default()).into_owned(), used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], tokens: &[&[u8]]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut filter = TextFilter::new(&stops);
        let mut text = String::new();
        for token in tokens {
            let released = filter.push(token);
            text += &released.text;
            if released.stopped {
                return (text, true);
            }
        }
        text += &filter.finish();
        (text, false)
    }

    /// The same on the whole text at once: the first end of a stop string, by trying every end.
    fn plain(stops: &[&str], bytes: &[u8]) -> (String, bool) {
        for end in 0..=bytes.len() {
            if let Some(start) = stops.iter().filter(|s| bytes[..end].ends_with(s.as_bytes())).map(|s| end - s.len()).min() {
                return (String::from_utf8_lossy(&bytes[..start]).into_owned(), true);
            }
        }
        (String::from_utf8_lossy(bytes).into_owned(), false)
    }

    #[test]
    fn stops_across_tokens() {
        assert_eq!(run(&["END"], &[b"the E", b"N", b"D of"]), ("the ".into(), true));
        assert_eq!(run(&["END"], &[b"the E", b"N", b"E"]), ("the ENE".into(), false));
        assert_eq!(run(&["aab"], &[b"a", b"a", b"a", b"b"]), ("a".into(), true));
        assert_eq!(run(&["abcd", "bc"], &[b"abcd"]), ("a".into(), true));
        assert_eq!(run(&["\u{e9}!"], &[b"caf\xc3", b"\xa9", b"!"]), ("caf".into(), true));
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop() {
        let mut filter = TextFilter::new(&["\n\nUser".into()]);
        assert_eq!(filter.push(b"Hello\n").text, "Hello");
        assert_eq!(filter.released(), 5);
        assert_eq!(filter.push(b"world").text, "\nworld");
    }

    #[test]
    fn characters_are_never_split() {
        let mut filter = TextFilter::new(&[]);
        let snow = "\u{2603}".as_bytes();
        assert_eq!(filter.push(&snow[..2]).text, "");
        assert_eq!(filter.push(&snow[2..]).text, "\u{2603}");
        assert_eq!(filter.push(b"\xff!").text, "\u{fffd}!");
        assert_eq!(filter.push(&snow[..1]).text, "");
        assert_eq!(filter.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xc3u8), Just(0xa9), Just(0xff), Just(0xf0), Just(0x9f)], 0..24),
            cuts in proptest::collection::vec(1usize..4, 24),
            which in 0usize..4,
        ) {
            let stops: &[&str] = [&["ab\u{e9}"][..], &["aa", "aba"], &["\u{e9}\u{e9}", "b"], &[]][which];
            let mut tokens = Vec::new();
            let mut rest = &bytes[..];
            for n in cuts {
                let (head, tail) = rest.split_at(n.min(rest.len()));
                tokens.push(head);
                rest = tail;
            }
            prop_assert_eq!(run(stops, &tokens), plain(stops, &bytes));
        }
    }
}
