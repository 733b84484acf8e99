//! Record indexes: where the lines of a text lie, so that one can be read without the others (docs/spec/bundle.md).

use zeroize::Zeroizing;

/// Longest record in bytes.
pub const MAX_RECORD: usize = 1 << 24;
/// Bytes of a file between two entries of its index, at least.
const STEP: u64 = 1 << 16;
const ENTRY_LEN: usize = 16;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A line of text that is not blank.
    Lines,
    /// The same, and a JSON text.
    Jsonl,
}

impl RecordKind {
    /// By the ending of a file's name: `.txt`, `.text`, `.md`; `.jsonl`, `.ndjson`.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "txt" | "text" | "md" => Some(Self::Lines),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Jsonl => "jsonl",
        }
    }

    pub(super) fn of_manifest(name: &str) -> Option<Self> {
        [Self::Lines, Self::Jsonl].into_iter().find(|kind| kind.name() == name)
    }
}

/// What there is to say of files none of which [`has_records`].
pub const NONE: &str = "no text (.txt, .text, .md), no JSONL (.jsonl, .ndjson) and no Parquet (.parquet)";

/// Whether a file of this name holds records: it is indexed, or brings its own index along.
pub fn has_records(name: &str) -> bool {
    RecordKind::of_name(name).is_some() || is_parquet(name)
}

/// Whether a file of this name (`.parquet`) brings its own index of records along, in its footer.
pub fn is_parquet(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("parquet"))
}

/// The records of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordIndex {
    kind: RecordKind,
    count: u64,
    /// Number of a record, and where its line begins; ascending.
    entries: Vec<(u64, u64)>,
}

impl RecordIndex {
    /// What a record is.
    pub fn kind(&self) -> RecordKind {
        self.kind
    }

    /// How many records there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A place at or before `record`, and the number of the record there.
    pub fn find(&self, record: u64) -> Option<(u64, u64)> {
        let after = self.entries.partition_point(|(number, _)| *number <= record);
        self.entries.get(after.checked_sub(1)?).copied().filter(|_| record < self.count)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|(number, at)| [number.to_be_bytes(), at.to_be_bytes()].concat()).collect()
    }

    /// Most bytes that the index of a file of `size` bytes can have.
    pub(super) fn max_len(size: u64) -> u64 {
        (size / STEP + 1).saturating_mul(ENTRY_LEN as u64)
    }

    /// Checks an index of a file of `size` bytes.
    pub(super) fn parse(kind: RecordKind, count: u64, size: u64, bytes: &[u8]) -> Result<Self, String> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() || bytes.len() as u64 > Self::max_len(size) || entries.is_empty() != (count == 0) {
            return Err(format!("{} bytes of index for {count} records in {size} bytes", bytes.len()));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let entries: Vec<_> = entries.iter().map(|entry| (number(&entry[..8]), number(&entry[8..]))).collect();
        let rises = entries.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let first = entries.first().is_none_or(|entry| entry.0 == 0);
        if !rises || !first || entries.last().is_some_and(|entry| entry.0 >= count || entry.1 >= size) {
            return Err("its entries do not rise within the file".into());
        }
        Ok(Self { kind, count, entries })
    }
}

/// Builds the index of a file whose bytes pass by.
pub struct Indexer {
    index: RecordIndex,
    lines: u64,
    /// Where the current line begins, and what there is of it.
    begin: u64,
    line: Zeroizing<Vec<u8>>,
}

impl Indexer {
    /// Before the first byte.
    pub fn new(kind: RecordKind) -> Self {
        let index = RecordIndex { kind, count: 0, entries: Vec::new() };
        Self { index, lines: 0, begin: 0, line: Zeroizing::default() }
    }

    /// The next bytes of the file. Says which line is no record and why.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end])?;
            self.end_line(1)?;
            bytes = &bytes[end + 1..];
        }
        self.append(bytes)
    }

    /// The file has ended.
    pub fn finish(mut self) -> Result<RecordIndex, String> {
        self.end_line(0)?;
        Ok(self.index)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.line.len() + bytes.len() > MAX_RECORD {
            return Err(format!("line {}: longer than {MAX_RECORD} bytes", self.lines + 1));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, terminator: u64) -> Result<(), String> {
        self.lines += 1;
        if !is_blank(&self.line) {
            let refused = |why: String| format!("line {}: {why}", self.lines);
            std::str::from_utf8(&self.line).map_err(|e| refused(format!("not UTF-8: {e}")))?;
            if self.index.kind == RecordKind::Jsonl {
                let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&self.line);
                // Its message would quote what is not to be read by others.
                parsed.map_err(|e| refused(format!("not JSON at column {}", e.column())))?;
            }
            if self.index.entries.last().is_none_or(|(_, at)| self.begin - at >= STEP) {
                self.index.entries.push((self.index.count, self.begin));
            }
            self.index.count += 1;
        }
        self.begin += self.line.len() as u64 + terminator;
        self.line.clear();
        Ok(())
    }
}

/// Whether a line is no record.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(kind: RecordKind, text: &[u8]) -> Result<RecordIndex, String> {
        let mut indexer = Indexer::new(kind);
        text.chunks(7).try_for_each(|part| indexer.update(part))?;
        indexer.finish()
    }

    #[test]
    fn blank_lines_are_no_records() {
        let count = |text: &str| index(RecordKind::Lines, text.as_bytes()).unwrap().count();
        assert_eq!([count(""), count("\n \r\n\t"), count("a"), count("a\n"), count("\na\r\n\nb\n")], [0, 0, 1, 1, 2]);
    }

    #[test]
    fn every_line_of_jsonl_is_json() {
        assert_eq!(index(RecordKind::Jsonl, b"{\"a\": 1}\n\n[2]\n\"x\"").unwrap().count(), 3);
        let error = index(RecordKind::Jsonl, b"1\n{\"secret\": \n").unwrap_err();
        assert!(error.starts_with("line 2: not JSON") && !error.contains("secret"), "{error}");
        assert!(index(RecordKind::Lines, b"ok\n\xff\n").unwrap_err().starts_with("line 2: not UTF-8"));
        let mut long = Indexer::new(RecordKind::Lines);
        assert!((0..=16).try_for_each(|_| long.update(&[b'x'; 1 << 20])).unwrap_err().contains("line 1: longer"));
    }

    #[test]
    fn bad_indexes() {
        let entry = |number: u64, at: u64| [number.to_be_bytes(), at.to_be_bytes()].concat();
        let parse = |count, size, bytes: &[Vec<u8>]| RecordIndex::parse(RecordKind::Lines, count, size, &bytes.concat());
        parse(9, 200_000, &[entry(0, 5), entry(4, 70_000)]).unwrap();
        parse(0, 200_000, &[]).unwrap();
        for (count, size, bytes) in [
            (0, 200_000, vec![entry(0, 0)]),
            (9, 200_000, vec![]),
            (9, 200_000, vec![entry(1, 0)]),
            (9, 200_000, vec![entry(0, 5), entry(0, 6)]),
            (9, 200_000, vec![entry(0, 5), entry(2, 5)]),
            (9, 200_000, vec![entry(0, 5), entry(9, 70_000)]),
            (9, 200_000, vec![entry(0, 200_000)]),
            (9, 60_000, vec![entry(0, 5), entry(4, 50_000)]),
            (9, 200_000, vec![entry(0, 5), vec![0]]),
        ] {
            assert!(parse(count, size, &bytes).is_err(), "{count} {size} {bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Beside a plain way of counting lines.
        #[test]
        fn entries_lead_to_their_records(lengths in proptest::collection::vec(0usize..30_000, 1..60)) {
            let text: Vec<u8> = lengths.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
            let index = index(RecordKind::Lines, &text).unwrap();
            let mut begins = Vec::new();
            let mut at = 0;
            for length in &lengths {
                if *length > 0 {
                    begins.push(at);
                }
                at += *length as u64 + 1;
            }
            prop_assert_eq!(index.count(), begins.len() as u64);
            prop_assert_eq!(index.find(index.count()), None);
            for (record, begin) in (0u64..).zip(&begins) {
                let (number, at) = index.find(record).unwrap();
                prop_assert!(number <= record && at == begins[number as usize] && begin - at < STEP + 30_000);
            }
            let parsed = RecordIndex::parse(RecordKind::Lines, index.count(), text.len() as u64, &index.to_bytes());
            prop_assert_eq!(parsed.unwrap(), index);
        }
    }
}
