//! Where the pages of a column chunk lie, by the file's offset index or by their own headers.

use crate::thrift::{FALSE, Fault, I32, I64, LIST, STRUCT, TRUE, Thrift};
use coffer_checkpoint::ReadAt;
use parquet::{basic::Encoding, file::metadata::ColumnChunkMetaData};
use zeroize::Zeroizing;

/// Largest page in bytes, compressed or not; a page of pictures can have some 100 MB.
pub(crate) const MAX_PAGE: u64 = 256 << 20;
/// Most values in a page: one that repeats a value takes few bytes for any number of them.
pub(crate) const MAX_VALUES: u32 = 1 << 25;
/// Headers can hold a smallest and a largest value.
const MAX_HEADER: u64 = 1 << 20;
/// Bytes read at first on the way to a header.
const FIRST: u64 = 1 << 10;
const MAX_INDEX: u64 = 64 << 20;
const MAX_PAGES: usize = 1 << 20;

/// A page, header and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// Records and values in it, as far as they are known without decoding it.
    pub(crate) rows: Option<usize>,
    pub(crate) values: Option<usize>,
    pub(crate) dictionary: bool,
}

/// What a page's header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Its own bytes.
    pub(crate) len: usize,
    pub(crate) kind: PageKind,
    pub(crate) compressed: u64,
    pub(crate) uncompressed: u64,
    pub(crate) values: u32,
    pub(crate) encoding: Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    Dictionary,
    /// Encodings of definition and repetition levels.
    V1(Encoding, Encoding),
    V2 {
        nulls: u32,
        rows: u32,
        definition: u32,
        repetition: u32,
        compressed: bool,
    },
    /// To be passed over.
    Other,
}

/// The pages of `chunk`, in order; it belongs to a row group of `rows` rows.
pub(crate) fn directory(file: &dyn ReadAt, chunk: &ColumnChunkMetaData, rows: u64) -> Result<Vec<Place>, String> {
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    // The footer was checked: neither is negative, and the end lies in the file.
    let (start, len) = (start as u64, chunk.compressed_size() as u64);
    match (chunk.offset_index_offset(), chunk.offset_index_length()) {
        (Some(at), Some(size)) if size > 0 => {
            let at = u64::try_from(at).map_err(|_| "its offset index lies before the file")?;
            if size as u64 > MAX_INDEX {
                return Err(format!("its offset index has {size} bytes (at most {MAX_INDEX})"));
            }
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(at, &mut bytes).map_err(|e| e.to_string())?;
            by_index(&bytes, start, start + len, rows)
        }
        _ => by_headers(file, start, start + len),
    }
}

fn by_index(bytes: &[u8], start: u64, end: u64, rows: u64) -> Result<Vec<Place>, String> {
    let mut locations = Vec::new();
    let read = Thrift::new(bytes).fields(&mut |thrift, id, kind| {
        if (id, kind) != (1, LIST) {
            return thrift.skip(kind);
        }
        let (count, kind) = thrift.list()?;
        if kind != STRUCT || count > MAX_PAGES {
            return Err(Fault::Bad("no list of pages"));
        }
        for _ in 0..count {
            let mut numbers = [-1; 3];
            thrift.fields(&mut |thrift, id, kind| match (id, kind) {
                (1..=3, I32 | I64) => thrift.int().map(|value| numbers[id as usize - 1] = value),
                _ => thrift.skip(kind),
            })?;
            locations.push(numbers);
        }
        Ok(())
    });
    read.map_err(|_| "its offset index is damaged")?;
    let (mut places, mut at) = (Vec::with_capacity(locations.len() + 1), start);
    for (number, [begin, len, row]) in locations.iter().enumerate() {
        let next = locations.get(number + 1).map_or(rows as i64, |next| next[2]);
        let ends = begin.checked_add(*len).is_some_and(|past| *begin as u64 >= at && past as u64 <= end);
        if *begin < 0 || *len < 0 || !ends || next < *row || (number == 0 && *row != 0) {
            return Err(format!("its offset index: page {number} has {len} bytes at {begin}, from row {row} on"));
        }
        if number == 0 && *begin as u64 > start {
            places.push(Place { at: start, len: *begin as u64 - start, rows: None, values: None, dictionary: true });
        }
        let rows = Some((next - row) as usize);
        places.push(Place { at: *begin as u64, len: *len as u64, rows, values: None, dictionary: false });
        at = (begin + len) as u64;
    }
    Ok(places)
}

fn by_headers(file: &dyn ReadAt, mut at: u64, end: u64) -> Result<Vec<Place>, String> {
    let mut places = Vec::new();
    while at < end {
        let header = probe(file, at, end)?;
        let len = header.len as u64 + header.compressed;
        if len > end - at || places.len() == MAX_PAGES {
            return Err(format!("page {} has {len} bytes at {at}, its column ends at {end}", places.len()));
        }
        let (rows, values) = match header.kind {
            PageKind::Dictionary | PageKind::Other => (None, None),
            PageKind::V1(..) => (None, Some(header.values as usize)),
            PageKind::V2 { rows, .. } => (Some(rows as usize), Some(header.values as usize)),
        };
        if header.kind != PageKind::Other {
            places.push(Place { at, len, rows, values, dictionary: header.kind == PageKind::Dictionary });
        }
        at += len;
    }
    Ok(places)
}

/// The header at `at`, read in growing pieces.
fn probe(file: &dyn ReadAt, at: u64, end: u64) -> Result<Header, String> {
    let mut size = FIRST;
    loop {
        let mut bytes = Zeroizing::new(vec![0; size.min(end - at) as usize]);
        file.read_exact_at(at, &mut bytes).map_err(|e| e.to_string())?;
        match header(&bytes) {
            Err(Fault::End) if bytes.len() as u64 == size && size < MAX_HEADER => size *= 8,
            read => return read.map_err(|fault| damaged(at, fault)),
        }
    }
}

pub(crate) fn damaged(at: u64, fault: Fault) -> String {
    match fault {
        Fault::End => format!("the page at {at} ends within its header"),
        Fault::Bad(why) => format!("the page at {at}: {why}"),
    }
}

/// Reads the header at the beginning of `bytes`.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, Fault> {
    let mut thrift = Thrift::new(bytes);
    let mut sizes = [-1i64; 3];
    let mut details = None;
    thrift.fields(&mut |thrift, id, kind| {
        match (id, kind) {
            (1..=3, I32) => sizes[id as usize - 1] = thrift.int()?,
            (5 | 7 | 8, STRUCT) => details = Some((id, numbers(thrift)?)),
            _ => thrift.skip(kind)?,
        }
        Ok(())
    })?;
    let size = |size: i64| u64::try_from(size).ok().filter(|size| *size <= MAX_PAGE);
    let [kind, uncompressed, compressed] = sizes;
    let too_large = Fault::Bad("it is larger than 256 MiB, or its size is negative");
    let (uncompressed, compressed) = size(uncompressed).zip(size(compressed)).ok_or(too_large)?;
    let len = bytes.len() - thrift.left();
    let (kind, values, encoding) = match (kind, details) {
        (1, _) => (PageKind::Other, 0, 0),
        (2, Some((7, n))) => (PageKind::Dictionary, count(n[1])?, n[2]),
        (0, Some((5, n))) => (PageKind::V1(encoding_of(n[3])?, encoding_of(n[4])?), count(n[1])?, n[2]),
        (3, Some((8, n))) => {
            let (nulls, rows, definition, repetition) = (count(n[2])?, count(n[3])?, count(n[5])?, count(n[6])?);
            if u64::from(definition) + u64::from(repetition) > uncompressed.min(compressed) {
                return Err(Fault::Bad("its levels are longer than the page"));
            }
            (PageKind::V2 { nulls, rows, definition, repetition, compressed: n[7] != 0 }, count(n[1])?, n[4])
        }
        _ => return Err(Fault::Bad("it is of no known kind")),
    };
    Ok(Header { len, kind, compressed, uncompressed, values, encoding: encoding_of(encoding)? })
}

/// The numbers and truth values among the first seven fields of a struct; -1 where there is none.
fn numbers(thrift: &mut Thrift<'_>) -> Result<[i64; 8], Fault> {
    let mut numbers = [-1; 8];
    thrift.fields(&mut |thrift, id, kind| {
        match (id, kind) {
            (1..=7, I32) => numbers[id as usize] = thrift.int()?,
            (1..=7, TRUE | FALSE) => numbers[id as usize] = i64::from(kind == TRUE),
            _ => thrift.skip(kind)?,
        }
        Ok(())
    })?;
    Ok(numbers)
}

fn count(value: i64) -> Result<u32, Fault> {
    let count = u32::try_from(value).ok().filter(|count| u64::from(*count) <= MAX_PAGE);
    count.ok_or(Fault::Bad("a count in its header is negative or too large"))
}

#[expect(deprecated, reason = "what is no longer written must still be recognized")]
fn encoding_of(number: i64) -> Result<Encoding, Fault> {
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        7 => return Err(Fault::Bad("it is encoded as DELTA_BYTE_ARRAY, which can grow without bound; write it anew as PLAIN")),
        _ => return Err(Fault::Bad("it is encoded in no known way")),
    })
}
