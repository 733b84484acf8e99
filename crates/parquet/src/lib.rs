//! The rows of a Parquet file as records, each a JSON object. The file's footer says where row groups and columns lie, and is the
//! index; pages are read one by one, so that a row of a large sealed file costs the pages that it lies in.
//!
//! The layer below the decoder is our own ([`pages`]): what a page claims is bounded before it is believed, and what it holds is wiped.
//! (<https://parquet.apache.org/docs/file-format/>)

mod codec;
mod footer;
mod header;
mod levels;
mod pages;
mod thrift;

pub use pages::PageCache;

use arrow_json::{WriterBuilder, writer::LineDelimited};
use coffer_checkpoint::ReadAt;
use coffer_seal::bundle::records::MAX_RECORD;
use pages::{ChunkPages, Source};
use parquet::{
    arrow::{
        FieldLevels, ProjectionMask,
        array_reader::RowGroups,
        arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector},
        parquet_to_arrow_field_levels,
    },
    column::page::{PageIterator, PageReader},
    errors::ParquetError,
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};
use std::{
    cell::Cell,
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, Once},
};
use zeroize::Zeroizing;

/// The rows of one file.
pub struct Rows {
    metadata: ParquetMetaData,
    levels: FieldLevels,
    source: Arc<Source>,
    /// Number of the first row of each row group, and of the row behind the last.
    begins: Vec<u64>,
}

impl Rows {
    /// Reads the footer. `number` is the file's own under `cache`.
    ///
    /// # Errors
    /// Says in what the file is damaged, or that it is of a kind that is not read; not the file's name.
    pub fn open(number: usize, file: Arc<dyn ReadAt>, cache: Arc<PageCache>) -> Result<Self, String> {
        let metadata = footer::read(&*file)?;
        let schema = metadata.file_metadata().schema_descr();
        let levels = guarded(|| {
            parquet_to_arrow_field_levels(schema, ProjectionMask::all(), None).map_err(|e| format!("its schema: {e}"))
        })?;
        let mut begins = vec![0];
        for group in metadata.row_groups() {
            // The footer was checked: no count is negative, and their sum fits.
            begins.push(begins[begins.len() - 1] + group.num_rows() as u64);
        }
        let source = Arc::new(Source { number, file, cache, places: Mutex::default() });
        Ok(Self { metadata, levels, source, begins })
    }

    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.begins.last().copied().unwrap_or(0)
    }

    /// A row as a JSON object with all columns, absent values as null, bytes in hexadecimal.
    ///
    /// # Errors
    /// Says that there is no such row, in what its pages are damaged, or that it is longer than [`MAX_RECORD`] bytes.
    pub fn record(&self, row: u64) -> Result<Zeroizing<Vec<u8>>, String> {
        let number = self.begins.partition_point(|begin| *begin <= row);
        let place = number.checked_sub(1).and_then(|at| Some((at, self.metadata.row_groups().get(at)?)));
        let (number, group) = place.ok_or_else(|| format!("there is no row {row}"))?;
        let group = Group { rows: self, group };
        let selection = RowSelection::from(vec![RowSelector::skip((row - self.begins[number]) as usize), RowSelector::select(1)]);
        let failed = |e: &dyn std::fmt::Display| format!("row {row}: {e}");
        guarded(|| {
            let reader = ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, 1, Some(selection));
            let batch = reader.map_err(|e| failed(&e))?.next().ok_or_else(|| failed(&"its row group ends before it"))?;
            let batch = batch.map_err(|e| failed(&e))?;
            let mut json = Record::default();
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut json);
            writer.write(&batch).map_err(|e| failed(&e))?;
            // The writer ends the line.
            json.0.pop();
            Ok(json.0)
        })
    }
}

/// One row group, as the decoder wants it.
struct Group<'a> {
    rows: &'a Rows,
    group: &'a RowGroupMetaData,
}

impl RowGroups for Group<'_> {
    fn num_rows(&self) -> usize {
        self.group.num_rows() as usize
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>, ParquetError> {
        let pages = ChunkPages::new(&self.rows.source, self.group.column(column), self.group.num_rows() as u64)?;
        Ok(Box::new(One(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.group))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.rows.metadata
    }
}

/// The pages of a column in the one row group.
struct One(Option<Box<dyn PageReader>>);

impl Iterator for One {
    type Item = Result<Box<dyn PageReader>, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for One {}

/// A record while it is written.
#[derive(Default)]
struct Record(Zeroizing<Vec<u8>>);

impl io::Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RECORD {
            return Err(io::Error::other(format!("longer than {MAX_RECORD} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The decoder panics at some files that contradict themselves; they are refused like others, and the panic, whose message may hold
/// what is in the file, is told to nobody.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    thread_local!(static GUARDED: Cell<bool> = const { Cell::new(false) });
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                others(panic);
            }
        }));
    });
    GUARDED.set(true);
    let decoded = panic::catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(false);
    decoded.unwrap_or_else(|_| Err("it contradicts itself".into()))
}
