//! Deflate streams, alone (gzip, zlib) and as the method of zip members. Decompression is bounded for each and in total.

use crate::{
    content::{self, Item},
    rules::{ARCHIVE_MALFORMED, Findings, LIMIT},
    source::Source,
};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use std::io::{self, Read};

/// Most bytes that are kept of one stream.
const MAX_STREAM: u64 = 64 << 20;
/// Most bytes that one scan decompresses.
const MAX_TOTAL: u64 = 2 << 30;

/// What came out of a stream.
pub(super) struct Inflated {
    pub(super) bytes: Vec<u8>,
    /// Whether the stream came to its end.
    pub(super) whole: bool,
    /// Why it stopped before, if it is damaged.
    pub(super) damage: Option<String>,
}

/// Decompresses the raw deflate stream of a zip member.
pub(super) fn inflate(findings: &mut Findings, source: &dyn Source) -> io::Result<Inflated> {
    collect(findings, DeflateDecoder::new(Stream { source, at: 0 }))
}

pub(crate) fn scan_gzip(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let inflated = collect(findings, MultiGzDecoder::new(Stream { source: item.source, at: 0 }))?;
    scan_inflated(findings, item, inflated)
}

pub(crate) fn scan_zlib(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let inflated = collect(findings, ZlibDecoder::new(Stream { source: item.source, at: 0 }))?;
    scan_inflated(findings, item, inflated)
}

/// Whether `item` is a zlib stream (joblib writes them): a valid header, and data that decompresses.
pub(crate) fn is_zlib(item: &Item<'_>, head: &[u8]) -> io::Result<bool> {
    let [0x78, flags, ..] = head else { return Ok(false) };
    if (0x7800 + u16::from(*flags)) % 31 != 0 {
        return Ok(false);
    }
    let mut first = [0; 16];
    let got = ZlibDecoder::new(Stream { source: item.source, at: 0 }).read(&mut first);
    Ok(got.is_ok_and(|n| n > 0))
}

fn scan_inflated(findings: &mut Findings, item: &Item<'_>, inflated: Inflated) -> io::Result<()> {
    if let Some(damage) = inflated.damage {
        let message = format!("a damaged compressed stream ({damage}); only what came before was judged");
        findings.add(&ARCHIVE_MALFORMED, &item.name, None, message);
    }
    let bytes = inflated.bytes.as_slice();
    let stem = item.base_name();
    let stem = stem.strip_suffix(".gz").or(stem.strip_suffix(".z")).unwrap_or(&stem);
    content::scan(findings, &item.member(stem, &bytes, inflated.whole))
}

fn collect(findings: &mut Findings, stream: impl Read) -> io::Result<Inflated> {
    let limit = MAX_STREAM.min(MAX_TOTAL.saturating_sub(findings.decompressed));
    let mut bytes = Vec::new();
    let read = stream.take(limit + 1).read_to_end(&mut bytes);
    findings.decompressed += bytes.len() as u64;
    let whole = bytes.len() as u64 <= limit;
    bytes.truncate(limit as usize);
    match read {
        Ok(_) => Ok(Inflated { bytes, whole, damage: None }),
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Ok(Inflated { bytes, whole: true, damage: Some(e.to_string()) })
        }
        Err(e) => Err(e),
    }
}

/// Reports a member that is compressed in a way the scanner cannot undo.
pub(super) fn report_unknown_method(findings: &mut Findings, name: &str, method: u16) {
    let message = format!("compressed by zip method {method}, which the scanner cannot undo: unpack it and scan again");
    findings.add(&LIMIT, name, None, message);
}

/// A source as a stream.
struct Stream<'a> {
    source: &'a dyn Source,
    at: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.source.len().saturating_sub(self.at).min(out.len() as u64) as usize;
        self.source.read_at(self.at, &mut out[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}
