//! zip: PyTorch's format since 1.6, numpy's `.npz`, Keras.
//!
//! A zip archive says everything twice, in a header before each member and in a directory at the end. Loaders differ in
//! which they believe, so both are read and must agree, and the content of every member is scanned whatever its flags say.
//! Source: APPNOTE.TXT 6.3.10.

mod directory;

use super::{
    check_path,
    compressed::{inflate, report_unknown_method},
};
use crate::{
    content::{self, Item},
    rules::{
        ARCHIVE_CHECKSUM, ARCHIVE_ENCRYPTED, ARCHIVE_FAKE_ENCRYPTION, ARCHIVE_MALFORMED, ARCHIVE_MISMATCH, ARCHIVE_ODD_FLAGS,
        Findings,
    },
    source::{Source, Window},
};
use directory::{Directory, Entry, read_directory, read_local};
use std::{collections::HashSet, io};

pub(crate) use directory::has_end;

/// Longer stored members are not read for their checksum alone.
const MAX_CHECKSUM: u64 = 16 << 20;
const ENCRYPTED: u16 = 1;
const SIZES_FOLLOW: u16 = 1 << 3;
/// UTF-8 names, and the two bits that say how hard deflate tried.
const ORDINARY: u16 = ENCRYPTED | SIZES_FOLLOW | 1 << 11 | 0b110;

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let mut spans = Vec::new();
    let directory = match read_directory(item.source)? {
        Ok(directory) => directory,
        Err(reason) => {
            findings.add(&ARCHIVE_MALFORMED, &item.name, None, format!("a zip archive whose directory is damaged: {reason}"));
            Directory { entries: Vec::new(), start: item.source.len(), shift: 0, ambiguous: false }
        }
    };
    if directory.shift != 0 {
        let message = format!("{} bytes precede the zip archive, so that loaders find different members", directory.shift);
        findings.add(&ARCHIVE_MISMATCH, &item.name, Some(0), message);
    }
    if directory.ambiguous {
        let message = "a second end record lies in its comment, so that loaders find different members";
        findings.add(&ARCHIVE_MISMATCH, &item.name, None, message.to_owned());
    }
    let mut names = HashSet::new();
    for entry in &directory.entries {
        check_path(findings, item, &entry.name, entry.at);
        if !names.insert(&entry.name) {
            let message = format!("the member {:?} is listed twice; loaders differ in which they take", entry.name);
            findings.add(&ARCHIVE_MISMATCH, &item.name, Some(entry.at), message);
        }
        spans.extend(scan_entry(findings, item, entry, directory.shift)?);
    }
    spans.sort_unstable();
    scan_gaps(findings, item, &spans, directory.start)
}

/// Compares the two headers of `entry` and scans its content. Returns the bytes that it takes.
fn scan_entry(findings: &mut Findings, item: &Item<'_>, entry: &Entry, shift: u64) -> io::Result<Option<(u64, u64)>> {
    let start = entry.local_at.saturating_add(shift);
    let local = read_local(item.source, start)?;
    let window = local.as_ref().and_then(|l| Window::new(item.source, l.data_at, entry.compressed));
    let (Some(local), Some(window)) = (local, window) else {
        let message = format!("the member {:?} is listed at byte {start}, where no such member is", entry.name);
        findings.add(&ARCHIVE_MALFORMED, &item.name, Some(entry.at), message);
        return Ok(None);
    };
    if let Some(what) = difference(entry, &local) {
        let message = format!("the member {:?} has another {what} in its own header than in the directory", entry.name);
        findings.add(&ARCHIVE_MISMATCH, &item.name, Some(start), message);
    }
    scan_member(findings, item, entry, &window)?;
    Ok(Some((start, local.data_at + entry.compressed)))
}

/// The first field in which a directory entry and a local header differ.
fn difference(entry: &Entry, local: &Entry) -> Option<&'static str> {
    let sizes_follow = local.flags & SIZES_FOLLOW != 0 && local.compressed == 0 && local.size == 0;
    let stored_mismatch = entry.method == 0 && entry.flags & ENCRYPTED == 0 && entry.compressed != entry.size;
    [
        (entry.name != local.name, "name"),
        (entry.method != local.method, "method"),
        (entry.flags & ENCRYPTED != local.flags & ENCRYPTED, "encryption flag"),
        (!sizes_follow && (entry.compressed, entry.size) != (local.compressed, local.size), "size"),
        (!sizes_follow && local.flags & SIZES_FOLLOW == 0 && entry.crc != local.crc, "checksum"),
        (stored_mismatch, "uncompressed size"),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}

fn scan_member(findings: &mut Findings, item: &Item<'_>, entry: &Entry, window: &Window<'_>) -> io::Result<()> {
    let name = format!("{}!{}", item.name, entry.name);
    let (bytes, whole);
    let source: &dyn Source = match entry.method {
        0 => {
            whole = true;
            window
        }
        8 => {
            let inflated = inflate(findings, window)?;
            if let (Some(damage), false) = (&inflated.damage, entry.flags & ENCRYPTED != 0) {
                let message = format!("a damaged compressed member ({damage}); only what came before was judged");
                findings.add(&ARCHIVE_MALFORMED, &name, None, message);
            }
            (bytes, whole) = (inflated.bytes, inflated.whole);
            &bytes.as_slice()
        }
        method => {
            report_unknown_method(findings, &name, method);
            return Ok(());
        }
    };
    let crc_fits = whole && source.len() <= MAX_CHECKSUM && crc_of(source)? == entry.crc;
    if entry.flags & ENCRYPTED != 0 {
        if !crc_fits {
            let message = "encrypted, so it could not be judged: unpack it with its password and scan again";
            findings.add(&ARCHIVE_ENCRYPTED, &name, None, message.to_owned());
            return Ok(());
        }
        let message = "marked as encrypted although it is not: scanners skip it and loaders read it";
        findings.add(&ARCHIVE_FAKE_ENCRYPTION, &name, None, message.to_owned());
    } else if !crc_fits && whole && source.len() <= MAX_CHECKSUM {
        findings.add(&ARCHIVE_CHECKSUM, &name, None, "its checksum is wrong; some loaders read it all the same".to_owned());
    }
    if entry.flags & !ORDINARY != 0 {
        let message = format!("zip flags 0x{:x}, which make some readers refuse it and others not", entry.flags);
        findings.add(&ARCHIVE_ODD_FLAGS, &name, None, message);
    }
    content::scan(findings, &item.member(&entry.name, source, whole))
}

/// Looks between the listed members for others that the directory hides, and for members that share bytes.
fn scan_gaps(findings: &mut Findings, item: &Item<'_>, spans: &[(u64, u64)], directory: u64) -> io::Result<()> {
    let mut end = 0;
    for &(from, to) in spans.iter().chain([&(directory, directory)]) {
        if from < end {
            let message = format!("two members share bytes {from}..{}; the archive unpacks to more than it should", end.min(to));
            findings.add(&ARCHIVE_MISMATCH, &item.name, Some(from), message);
        } else if let Some(hidden) = find_member(item.source, end, from)? {
            let message = "a member that the directory does not list; some loaders read it";
            findings.add(&ARCHIVE_MISMATCH, &item.name, Some(hidden), message.to_owned());
            scan_hidden(findings, item, hidden)?;
        }
        end = end.max(to);
    }
    Ok(())
}

/// Scans the members whose headers follow each other from `at` on, as a reader without a directory would.
fn scan_hidden(findings: &mut Findings, item: &Item<'_>, mut at: u64) -> io::Result<()> {
    for _ in 0..super::MAX_MEMBERS {
        let Some(local) = read_local(item.source, at)? else { break };
        let Some(window) = Window::new(item.source, local.data_at, local.compressed) else { break };
        scan_member(findings, item, &local, &window)?;
        at = local.data_at + local.compressed;
    }
    Ok(())
}

/// Position of the first local header in `from..to`, as far as it is worth looking.
fn find_member(source: &dyn Source, from: u64, to: u64) -> io::Result<Option<u64>> {
    let gap = source.read_up_to(from, to.saturating_sub(from).min(1 << 20) as usize)?;
    let found = gap.windows(4).position(|w| w == directory::LOCAL);
    Ok(found.map(|at| from + at as u64))
}

fn crc_of(source: &dyn Source) -> io::Result<u32> {
    let mut crc = flate2::Crc::new();
    let mut at = 0;
    while at < source.len() {
        let part = source.read_up_to(at, 1 << 20)?;
        crc.update(&part);
        at += part.len() as u64;
    }
    Ok(crc.sum())
}
