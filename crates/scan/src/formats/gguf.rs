//! GGUF: the header against itself and the length of the file, and chat templates in it.

use super::template;
use crate::{
    content::Item,
    rules::{Findings, GGUF_MALFORMED},
    source::{Cursor, ReadStop},
};
use std::{collections::HashSet, io};

const STRING: u32 = 8;
const ARRAY: u32 = 9;
const MAX_DIMS: u32 = 4;
const MAX_ALIGNMENT: u32 = 1 << 20;
/// Longest string that is kept: templates are shorter, names much.
const MAX_TEXT: usize = 4 << 20;

/// Elements and bytes of a block of each ggml type that has a name today; others are not judged.
const BLOCKS: [(u32, u64, u64); 30] = [
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (20, 32, 18),
    (21, 256, 110),
    (22, 256, 82),
    (23, 256, 136),
    (24, 1, 1),
    (25, 1, 2),
    (26, 1, 4),
    (27, 1, 8),
    (28, 1, 8),
    (29, 256, 56),
    (30, 1, 2),
    (34, 256, 54),
    (35, 256, 66),
];

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let mut reader = Reader { cursor: Cursor::new(item.source, 4), item, findings, alignment: 32 };
    let (at, reason) = match reader.header() {
        Ok(()) => return Ok(()),
        Err(Stop::Wrong(reason)) => (reader.cursor.position(), reason),
        Err(Stop::Read(ReadStop::Io(error))) => return Err(error),
        Err(Stop::Read(_)) => (reader.cursor.position(), "a length goes beyond the end of the file".to_owned()),
    };
    findings.add(&GGUF_MALFORMED, &item.name, Some(at), format!("its header contradicts the format: {reason}"));
    Ok(())
}

enum Stop {
    Wrong(String),
    Read(ReadStop),
}

impl From<ReadStop> for Stop {
    fn from(stop: ReadStop) -> Self {
        Stop::Read(stop)
    }
}

struct Reader<'a, 'b> {
    cursor: Cursor<'b>,
    item: &'a Item<'b>,
    findings: &'a mut Findings,
    alignment: u64,
}

impl Reader<'_, '_> {
    fn header(&mut self) -> Result<(), Stop> {
        let version = self.cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Stop::Wrong(format!("version {version} (big-endian or too old) is not judged")));
        }
        let tensors = self.count(24)?;
        let entries = self.count(13)?;
        let mut keys = HashSet::new();
        for _ in 0..entries {
            let key = self.text()?;
            if !keys.insert(key.clone()) {
                return Err(Stop::Wrong(format!("the key {key:?} occurs twice")));
            }
            let kind = self.cursor.u32()?;
            self.value(&key, kind)?;
        }
        self.tensors(tensors)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<(), Stop> {
        match kind {
            STRING => {
                let at = self.cursor.position();
                let text = self.text()?;
                template::scan(self.findings, self.item, Some(at), &text);
            }
            ARRAY => {
                let element = self.cursor.u32()?;
                match size_of(element) {
                    Some(size) => {
                        let count = self.count(size)?;
                        self.cursor.skip(count * size)?;
                    }
                    None if element == STRING => {
                        for _ in 0..self.count(8)? {
                            let len = self.cursor.u64()?;
                            self.cursor.skip(len)?;
                        }
                    }
                    None => return Err(Stop::Wrong(format!("{key:?} is an array of type {element}"))),
                }
            }
            4 if key == "general.alignment" => {
                let alignment = self.cursor.u32()?;
                if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
                    return Err(Stop::Wrong(format!("the alignment {alignment} is no power of two")));
                }
                self.alignment = alignment.into();
            }
            other => match size_of(other) {
                Some(size) => self.cursor.skip(size)?,
                None => return Err(Stop::Wrong(format!("{key:?} has the unknown type {other}"))),
            },
        }
        Ok(())
    }

    fn tensors(&mut self, count: u64) -> Result<(), Stop> {
        let (mut spans, mut names) = (Vec::new(), HashSet::new());
        for _ in 0..count {
            let name = self.text()?;
            if !names.insert(name.clone()) {
                return Err(Stop::Wrong(format!("the tensor {name:?} is listed twice")));
            }
            let dims = self.cursor.u32()?;
            if dims > MAX_DIMS {
                return Err(Stop::Wrong(format!("the tensor {name:?} has {dims} dimensions")));
            }
            let shape = (0..dims).map(|_| self.cursor.u64()).collect::<Result<Vec<_>, _>>()?;
            let kind = self.cursor.u32()?;
            let offset = self.cursor.u64()?;
            let Some(bytes) = bytes_of(&shape, kind) else {
                return Err(Stop::Wrong(format!("the tensor {name:?} of type {kind} cannot have the shape {shape:?}")));
            };
            if offset % self.alignment != 0 {
                return Err(Stop::Wrong(format!("the tensor {name:?} is not aligned: offset {offset}")));
            }
            spans.push((offset, bytes, name));
        }
        let data = self.cursor.position().next_multiple_of(self.alignment);
        let data_len = if self.item.whole { self.item.source.len().saturating_sub(data) } else { u64::MAX };
        spans.sort();
        let mut end = 0;
        for (offset, bytes, name) in spans {
            let to = offset.checked_add(bytes).filter(|&to| to <= data_len);
            let Some(to) = to.filter(|_| offset >= end) else {
                return Err(Stop::Wrong(format!(
                    "the tensor {name:?} ({bytes} bytes at {offset}) overlaps another or the end of the file"
                )));
            };
            end = to;
        }
        Ok(())
    }

    fn text(&mut self) -> Result<String, Stop> {
        let len = self.cursor.u64()?;
        let bytes = self.cursor.bytes(len, MAX_TEXT)?;
        let bytes = bytes.ok_or_else(|| Stop::Wrong(format!("a string of {len} bytes")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A number of items of at least `size` bytes each.
    fn count(&mut self, size: u64) -> Result<u64, Stop> {
        let count = self.cursor.u64()?;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.cursor.remaining() => Ok(count),
            _ => Err(Stop::Wrong(format!("{count} items cannot follow in {} bytes", self.cursor.remaining()))),
        }
    }
}

/// Bytes of a metadata value of fixed size.
fn size_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Bytes of a tensor, innermost extent first; 0 for a type that is not judged, `None` if it cannot be.
fn bytes_of(shape: &[u64], kind: u32) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    let Some((_, len, bytes)) = BLOCKS.iter().find(|(k, ..)| *k == kind) else { return Some(0) };
    let row = shape.first().copied().unwrap_or(1);
    if row % len != 0 { None } else { (elements / len).checked_mul(*bytes) }
}
