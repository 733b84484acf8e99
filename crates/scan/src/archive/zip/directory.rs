//! The directory at the end of a zip archive, and the header before each member, with their 64-bit forms.

use super::super::MAX_MEMBERS;
use crate::source::{Cursor, ReadStop, Source};
use std::io;

/// Signatures of a member's header, a directory entry, and the end records.
pub(super) const LOCAL: &[u8; 4] = b"PK\x03\x04";
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END64: &[u8; 4] = b"PK\x06\x06";
const END64_LOCATOR: &[u8; 4] = b"PK\x06\x07";

const END_LEN: u64 = 22;
const MAX_COMMENT: u64 = 0xFFFF;

/// What either header says about a member.
pub(super) struct Entry {
    /// Position of this header.
    pub(super) at: u64,
    pub(super) name: String,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
    /// Directory only: position of the local header.
    pub(super) local_at: u64,
    /// Local header only: position of the content.
    pub(super) data_at: u64,
}

/// The directory.
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// Where it begins.
    pub(super) start: u64,
    /// By how much all positions are off, since something precedes the archive.
    pub(super) shift: u64,
    /// Whether another end record lies in the comment of the one that was taken.
    pub(super) ambiguous: bool,
}

/// Whether `source` ends like a zip archive whose directory is where it should be.
pub(crate) fn has_end(source: &dyn Source) -> io::Result<bool> {
    let Some(end) = find_end(source)? else { return Ok(false) };
    let Ok(located) = locate(source, end)? else { return Ok(false) };
    let signature = source.read_up_to(located.start, 4)?;
    Ok(signature == ENTRY || (located.count == 0 && located.start == end))
}

/// Reads the directory; the inner error says why it cannot be read.
pub(super) fn read_directory(source: &dyn Source) -> io::Result<Result<Directory, String>> {
    let Some(end) = find_end(source)? else {
        return Ok(Err("it has no end record".to_owned()));
    };
    let located = match locate(source, end)? {
        Ok(located) => located,
        Err(reason) => return Ok(Err(reason)),
    };
    if located.count > MAX_MEMBERS {
        return Ok(Err(format!("{} members, more than {MAX_MEMBERS}", located.count)));
    }
    let mut cursor = Cursor::new(source, located.start);
    let mut entries = Vec::new();
    for i in 0..located.count {
        match unless_io(read_entry(&mut cursor))? {
            Some(Some(entry)) => entries.push(entry),
            _ => return Ok(Err(format!("entry {i} of {} is damaged", located.count))),
        }
    }
    if cursor.position() > end {
        return Ok(Err("its entries overlap its end record".to_owned()));
    }
    let comment = source.read_up_to(end + END_LEN, MAX_COMMENT as usize)?;
    let ambiguous = comment.windows(END.len()).any(|w| w == END);
    Ok(Ok(Directory { entries, start: located.start, shift: located.shift, ambiguous }))
}

/// Reads the header before a member; `None` if there is none at `at`.
pub(super) fn read_local(source: &dyn Source, at: u64) -> io::Result<Option<Entry>> {
    let mut cursor = Cursor::new(source, at);
    let read = |cursor: &mut Cursor<'_>| -> Result<Option<Entry>, ReadStop> {
        if cursor.array::<4>()? != *LOCAL {
            return Ok(None);
        }
        let fixed: [u8; 26] = cursor.array()?;
        let mut entry = fixed_fields(&fixed[2..], at);
        let (name_len, extra_len) = (u16_at(&fixed, 22), u16_at(&fixed, 24));
        entry.name = name(cursor, name_len)?;
        let extra = cursor.bytes(extra_len.into(), extra_len.into())?.unwrap_or_default();
        widen(&mut entry, &extra);
        entry.data_at = cursor.position();
        Ok(Some(entry))
    };
    Ok(unless_io(read(&mut cursor))?.flatten())
}

struct Located {
    start: u64,
    count: u64,
    shift: u64,
}

/// Position of the end record: the last that its comment carries to the end of the file.
fn find_end(source: &dyn Source) -> io::Result<Option<u64>> {
    let len = source.len();
    let from = len.saturating_sub(END_LEN + MAX_COMMENT);
    let tail = source.read_up_to(from, (END_LEN + MAX_COMMENT) as usize)?;
    let fits = |at: &usize| {
        tail[*at..].starts_with(END)
            && tail.get(at + 20..at + 22).is_some_and(|c| at + 22 + usize::from(u16::from_le_bytes([c[0], c[1]])) <= tail.len())
    };
    Ok((0..tail.len().saturating_sub(END_LEN as usize - 1)).rev().find(fits).map(|at| from + at as u64))
}

/// Where the directory must begin, seen from its end.
fn locate(source: &dyn Source, end: u64) -> io::Result<Result<Located, String>> {
    let record = source.read_up_to(end, END_LEN as usize)?;
    let mut count = u64::from(u16_at(&record, 10));
    let mut size = u64::from(u32_at(&record, 12));
    let mut offset = u64::from(u32_at(&record, 16));
    let (mut directory_end, mut wide_at) = (end, None);
    if u16_at(&record, 4) != u16_at(&record, 6) || u16_at(&record, 8) != u16_at(&record, 10) {
        return Ok(Err("it is spread over several disks".to_owned()));
    }
    let locator = source.read_up_to(end.saturating_sub(20), 20)?;
    if end >= 20 && locator.starts_with(END64_LOCATOR) {
        // The record lies right before its locator; what precedes the archive shifts both alike.
        directory_end = end.saturating_sub(20 + 56);
        let wide = source.read_up_to(directory_end, 56)?;
        if !wide.starts_with(END64) || wide.len() != 56 {
            return Ok(Err("its 64-bit end record is not where it should be".to_owned()));
        }
        let narrow = [(count, u16::MAX.into()), (size, u32::MAX.into()), (offset, u32::MAX.into())];
        (count, size, offset) = (u64_at(&wide, 32), u64_at(&wide, 40), u64_at(&wide, 48));
        let differs = |((narrow, all_ones), wide): ((u64, u64), u64)| narrow != all_ones && narrow != wide;
        if narrow.into_iter().zip([count, size, offset]).any(differs) {
            return Ok(Err("its two end records differ".to_owned()));
        }
        wide_at = Some(u64_at(&locator, 8));
    }
    let start = directory_end.checked_sub(size);
    match start.and_then(|start| Some((start, start.checked_sub(offset)?))) {
        Some((_, shift)) if wide_at.is_some_and(|at| at.checked_add(shift) != Some(directory_end)) => {
            Ok(Err("its 64-bit end record is not where its locator says".to_owned()))
        }
        Some((start, shift)) => Ok(Ok(Located { start, count, shift })),
        None => Ok(Err(format!("a directory of {size} bytes at {offset} does not fit before its end at {directory_end}"))),
    }
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<Option<Entry>, ReadStop> {
    let at = cursor.position();
    if cursor.array::<4>()? != *ENTRY {
        return Ok(None);
    }
    let fixed: [u8; 42] = cursor.array()?;
    let mut entry = fixed_fields(&fixed[4..], at);
    entry.local_at = u32_at(&fixed, 38).into();
    entry.name = name(cursor, u16_at(&fixed, 24))?;
    let extra_len = u64::from(u16_at(&fixed, 26));
    let extra = cursor.bytes(extra_len, extra_len as usize)?.unwrap_or_default();
    widen(&mut entry, &extra);
    cursor.skip(u16_at(&fixed, 28).into())?;
    Ok(Some(entry))
}

/// The fields that both headers have in the same order, from the flags on.
fn fixed_fields(bytes: &[u8], at: u64) -> Entry {
    Entry {
        at,
        name: String::new(),
        flags: u16_at(bytes, 0),
        method: u16_at(bytes, 2),
        crc: u32_at(bytes, 8),
        compressed: u32_at(bytes, 12).into(),
        size: u32_at(bytes, 16).into(),
        local_at: 0,
        data_at: 0,
    }
}

fn name(cursor: &mut Cursor<'_>, len: u16) -> Result<String, ReadStop> {
    let bytes = cursor.bytes(len.into(), len.into())?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces fields of all ones by the values of the 64-bit extra field, which holds just those, in this order.
fn widen(entry: &mut Entry, mut extra: &[u8]) {
    while let [a, b, c, d, rest @ ..] = extra {
        let (id, len) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let mut field = rest.get(..len).unwrap_or(rest);
        extra = rest.get(len..).unwrap_or_default();
        if id != 1 {
            continue;
        }
        for value in [&mut entry.size, &mut entry.compressed, &mut entry.local_at] {
            if *value == u64::from(u32::MAX)
                && let Some((wide, rest)) = field.split_first_chunk::<8>()
            {
                *value = u64::from_le_bytes(*wide);
                field = rest;
            }
        }
    }
}

/// Damage becomes `None`, an error of the system stays one.
fn unless_io<T>(read: Result<T, ReadStop>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(ReadStop::Io(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// These three read from records whose length was checked; beyond it they would read zeros.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
