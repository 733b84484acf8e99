//! The pages of columns as the decoder takes them: bounded before they are decompressed, wiped when they are let go, the last
//! ones kept for those who read at random.

use crate::{
    codec::decompress,
    header::{MAX_PAGE, MAX_VALUES, PageKind, Place, damaged, directory, header},
    levels::begins_record,
};
use bytes::Bytes;
use coffer_checkpoint::ReadAt;
use parquet::{
    basic::Compression,
    column::page::{Page, PageMetadata, PageReader},
    errors::ParquetError,
    file::metadata::ColumnChunkMetaData,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use zeroize::Zeroizing;

/// Bytes of decompressed pages in use at once, those kept for later included.
const MAX_LIVE: u64 = 768 << 20;
/// Bytes of decompressed pages that are kept for later, and how many pages.
const MAX_KEPT: u64 = 128 << 20;
const MAX_KEPT_PAGES: usize = 1 << 12;
/// Pages whose places are kept.
const MAX_PLACES: usize = 1 << 20;

/// Decompressed pages of all files of a data set.
#[derive(Default)]
pub struct PageCache {
    live: Arc<AtomicU64>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By file and place; with the time of the last use.
    pages: HashMap<(usize, u64), (Page, u64)>,
    bytes: u64,
    time: u64,
}

/// A file as the source of pages.
pub(crate) struct Source {
    /// Number of the file within the data set.
    pub(crate) number: usize,
    pub(crate) file: Arc<dyn ReadAt>,
    pub(crate) cache: Arc<PageCache>,
    pub(crate) places: Mutex<HashMap<u64, Arc<[Place]>>>,
}

/// The pages of one column chunk.
pub(crate) struct ChunkPages {
    source: Arc<Source>,
    places: Arc<[Place]>,
    next: usize,
    column: String,
    codec: Compression,
    max_rep_level: i16,
    /// Values since the last page in which a record begins.
    unbroken: u64,
}

/// Bytes that are counted while they live, and wiped.
struct Counted {
    bytes: Zeroizing<Vec<u8>>,
    size: u64,
    live: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl ChunkPages {
    pub(crate) fn new(source: &Arc<Source>, chunk: &ColumnChunkMetaData, rows: u64) -> Result<Self, ParquetError> {
        let column = chunk.column_descr().path().string();
        let places = source.places(chunk, rows).map_err(|why| refused(&column, why))?;
        let max_rep_level = chunk.column_descr().max_rep_level();
        Ok(Self { source: source.clone(), places, next: 0, column, codec: chunk.compression(), max_rep_level, unbroken: 0 })
    }

    /// A record may go on over several pages, but not for ever.
    fn bound_record(&mut self, page: &Page) -> Result<(), String> {
        if self.max_rep_level > 0 && page.is_data_page() {
            let values = u64::from(page.num_values());
            self.unbroken = if begins_record(page, self.max_rep_level)? { values } else { self.unbroken + values };
            if self.unbroken > u64::from(MAX_VALUES) {
                return Err(format!("a row has more than {MAX_VALUES} values"));
            }
        }
        Ok(())
    }
}

impl PageReader for ChunkPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let Some(place) = self.places.get(self.next).copied() else { return Ok(None) };
        self.next += 1;
        let page = self.source.page(place, self.codec).map_err(|why| refused(&self.column, why))?;
        self.bound_record(&page).map_err(|why| refused(&self.column, why))?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        let metadata = |place: &Place| PageMetadata { num_rows: place.rows, num_levels: place.values, is_dict: place.dictionary };
        Ok(self.places.get(self.next).map(metadata))
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.next += 1;
        Ok(())
    }
}

impl Iterator for ChunkPages {
    type Item = Result<Page, ParquetError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl Source {
    fn places(&self, chunk: &ColumnChunkMetaData, rows: u64) -> Result<Arc<[Place]>, String> {
        let at = chunk.data_page_offset() as u64;
        if let Some(places) = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&at) {
            return Ok(places.clone());
        }
        let places: Arc<[Place]> = directory(&*self.file, chunk, rows)?.into();
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().map(|places| places.len()).sum::<usize>() > MAX_PLACES {
            all.clear();
        }
        all.insert(at, places.clone());
        Ok(places)
    }

    fn page(&self, place: Place, codec: Compression) -> Result<Page, String> {
        let key = (self.number, place.at);
        if let Some(page) = self.cache.get(key) {
            return Ok(page);
        }
        let page = self.read(place, codec)?;
        self.cache.keep(key, &page);
        Ok(page)
    }

    fn read(&self, place: Place, codec: Compression) -> Result<Page, String> {
        if place.len > MAX_PAGE {
            return Err(format!("the page at {} has {} bytes (at most {MAX_PAGE})", place.at, place.len));
        }
        let mut bytes = Zeroizing::new(vec![0; place.len as usize]);
        self.file.read_exact_at(place.at, &mut bytes).map_err(|e| e.to_string())?;
        let header = header(&bytes).map_err(|fault| damaged(place.at, fault))?;
        let wrong = || format!("the page at {} is not what its place promises", place.at);
        let body = bytes[header.len..].get(..header.compressed as usize).ok_or_else(wrong)?;
        if header.values > MAX_VALUES {
            return Err(format!("the page at {} has {} values (at most {MAX_VALUES})", place.at, header.values));
        }
        // Levels of the second version are never compressed.
        let (levels, compressed) = match header.kind {
            PageKind::V2 { definition, repetition, compressed, .. } => ((definition + repetition) as usize, compressed),
            _ => (0, true),
        };
        let codec = if compressed { codec } else { Compression::UNCOMPRESSED };
        let size = header.uncompressed as usize;
        let mut counted = self.cache.count(size)?;
        counted.bytes.reserve_exact(size + 1);
        counted.bytes.extend_from_slice(&body[..levels]);
        decompress(codec, &body[levels..], size - levels, &mut counted.bytes)?;
        let (buf, num_values, encoding) = (Bytes::from_owner(counted), header.values, header.encoding);
        match header.kind {
            PageKind::Dictionary if place.dictionary => Ok(Page::DictionaryPage { buf, num_values, encoding, is_sorted: false }),
            PageKind::V1(def_level_encoding, rep_level_encoding) if !place.dictionary => {
                Ok(Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics: None })
            }
            PageKind::V2 { nulls, rows, definition, repetition, compressed } if !place.dictionary => Ok(Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls: nulls,
                num_rows: rows,
                def_levels_byte_len: definition,
                rep_levels_byte_len: repetition,
                is_compressed: compressed,
                statistics: None,
            }),
            _ => Err(wrong()),
        }
    }
}

impl PageCache {
    fn get(&self, key: (usize, u64)) -> Option<Page> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.time += 1;
        let time = kept.time;
        kept.pages.get_mut(&key).map(|(page, used)| {
            *used = time;
            page.clone()
        })
    }

    fn keep(&self, key: (usize, u64), page: &Page) {
        let size = page.buffer().len() as u64;
        if size > MAX_KEPT / 8 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.bytes + size > MAX_KEPT || kept.pages.len() >= MAX_KEPT_PAGES {
            let Some(oldest) = kept.pages.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key) else { break };
            kept.forget(oldest);
        }
        kept.forget(key);
        kept.bytes += size;
        let time = kept.time;
        kept.pages.insert(key, (page.clone(), time));
    }

    /// Room for a page of `size` bytes.
    fn count(&self, size: usize) -> Result<Counted, String> {
        let size = size as u64;
        let live = self.live.fetch_add(size, Ordering::Relaxed) + size;
        let counted = Counted { bytes: Zeroizing::default(), size, live: self.live.clone() };
        if live > MAX_LIVE {
            return Err(format!("pages of more than {MAX_LIVE} bytes would be in memory at once"));
        }
        Ok(counted)
    }
}

impl Kept {
    fn forget(&mut self, key: (usize, u64)) {
        if let Some((page, _)) = self.pages.remove(&key) {
            self.bytes -= page.buffer().len() as u64;
        }
    }
}

fn refused(column: &str, why: String) -> ParquetError {
    ParquetError::General(format!("column {column}: {why}"))
}
