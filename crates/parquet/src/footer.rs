//! A Parquet file's footer: bounded and checked before the decoder sees it.

use crate::thrift::{BINARY, BYTE, FALSE, Fault, I32, I64, LIST, STRUCT, TRUE, Thrift};
use coffer_checkpoint::ReadAt;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"PAR1";
/// Magic, and behind the metadata their length and the magic again.
const FRAME: u64 = 12;
const MAX_FOOTER: u64 = 16 << 20;
/// Nodes of the schema, deepest of them, and bytes that all columns' full names have together.
const MAX_NODES: usize = 10_000;
const MAX_DEPTH: usize = 32;
const MAX_NAMES: usize = 4 << 20;
const MAX_GROUPS: usize = 100_000;
/// Most rows, so that no sum overflows.
const MAX_ROWS: i64 = 1 << 48;

/// Reads the footer of `file`.
pub(crate) fn read(file: &dyn ReadAt) -> Result<ParquetMetaData, String> {
    if file.len() < FRAME {
        return Err("it is too short for a Parquet file".into());
    }
    let mut tail = [0; 8];
    file.read_exact_at(file.len() - 8, &mut tail).map_err(|e| e.to_string())?;
    let (len, magic) = tail.split_at(4);
    if magic == b"PARE" {
        return Err("it is encrypted by Parquet's own means; decrypt it, and seal that".into());
    }
    if magic != MAGIC {
        return Err("it does not end as a Parquet file does".into());
    }
    let len = len.iter().rev().fold(0, |len, byte| len << 8 | u64::from(*byte));
    if len > file.len() - FRAME || len > MAX_FOOTER {
        return Err(format!("a footer of {len} bytes in a file of {} (at most {MAX_FOOTER})", file.len()));
    }
    let mut bytes = Zeroizing::new(vec![0; len as usize]);
    file.read_exact_at(file.len() - 8 - len, &mut bytes).map_err(|e| e.to_string())?;
    check_metadata(&bytes).map_err(|fault| match fault {
        Fault::End => "its footer ends within a value".to_owned(),
        Fault::Bad(why) => format!("its footer: {why}"),
    })?;
    let metadata = crate::guarded(|| ParquetMetaDataReader::decode_metadata(&bytes).map_err(|e| format!("its footer: {e}")))?;
    check_groups(&metadata, file.len())?;
    Ok(metadata)
}

/// What the decoder would follow without bounds: the depth of the schema, and lengths that it believes.
fn check_metadata(bytes: &[u8]) -> Result<(), Fault> {
    Thrift::new(bytes).fields(&mut |thrift, id, kind| match (id, kind) {
        (2, LIST) => check_schema(thrift),
        (4, LIST) => {
            let (count, kind) = thrift.list()?;
            if count > MAX_GROUPS {
                return Err(Fault::Bad("it has more than 100000 row groups"));
            }
            (0..count).try_for_each(|_| thrift.skip(kind))
        }
        (1, I32) | (3, I64) | (5 | 7, LIST) | (6, BINARY) | (8.., _) => thrift.skip(kind),
        _ => Err(Fault::Bad("a field is of the wrong type")),
    })
}

/// The schema is a list in preorder, each node with the number of its children.
fn check_schema(thrift: &mut Thrift<'_>) -> Result<(), Fault> {
    let (count, kind) = thrift.list()?;
    if kind != STRUCT || count > MAX_NODES {
        return Err(Fault::Bad("its schema is no list of at most 10000 nodes"));
    }
    // Of the groups around: children still to come, and length of the full name.
    let mut around: Vec<(usize, usize)> = Vec::new();
    let mut names = 0;
    for at in 0..count {
        let (children, name) = node(thrift)?;
        let outer = around.last().map_or(0, |group| group.1);
        match around.last_mut() {
            Some(group) => group.0 -= 1,
            None if at > 0 => return Err(Fault::Bad("its schema has several roots")),
            None => {}
        }
        names += outer + name;
        if children > count || around.len() >= MAX_DEPTH || names > MAX_NAMES {
            return Err(Fault::Bad("its schema is nested too deeply, or its names are too long"));
        }
        around.push((children, outer + name));
        while around.last().is_some_and(|group| group.0 == 0) {
            around.pop();
        }
    }
    if around.is_empty() { Ok(()) } else { Err(Fault::Bad("its schema lacks nodes")) }
}

/// How many children a node has, and how long its name is.
fn node(thrift: &mut Thrift<'_>) -> Result<(usize, usize), Fault> {
    let (mut children, mut name) = (0, 0);
    thrift.fields(&mut |thrift, id, kind| {
        match (id, kind) {
            (4, BINARY) => name = thrift.binary()?.len(),
            (5, I32) => children = usize::try_from(thrift.int()?).map_err(|_| Fault::Bad("a node has less than no children"))?,
            (1..=3 | 6..=9, I32) => thrift.skip(kind)?,
            (10, STRUCT) => thrift.fields(&mut logical_type)?,
            _ => return Err(Fault::Bad("a node of its schema has a field of the wrong type")),
        }
        Ok(())
    })?;
    Ok((children, name))
}

/// A union of structs, whose fields must have the types that the decoder takes for granted.
fn logical_type(thrift: &mut Thrift<'_>, which: i16, kind: u8) -> Result<(), Fault> {
    let wrong = Fault::Bad("a logical type that is not known");
    if kind != STRUCT || !(1..=15).contains(&which) {
        return Err(wrong);
    }
    thrift.fields(&mut |thrift, id, kind| match (which, id, kind) {
        // Decimal; time and timestamp (their unit is a union of empty structs); integer.
        (5, 1 | 2, I32) | (7 | 8, 1, TRUE | FALSE) | (10, 1, BYTE) | (10, 2, TRUE | FALSE) => thrift.skip(kind),
        (7 | 8, 2, STRUCT) => thrift.fields(&mut |thrift, _, kind| match kind {
            STRUCT => thrift.fields(&mut |_, _, _| Err(wrong)),
            _ => Err(wrong),
        }),
        _ => Err(wrong),
    })
}

fn check_groups(metadata: &ParquetMetaData, len: u64) -> Result<(), String> {
    if metadata.file_metadata().schema_descr().num_columns() == 0 {
        return Err("it has no columns".into());
    }
    let mut rows = 0i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let refused = |why: String| format!("row group {number}: {why}");
        rows = rows.saturating_add(group.num_rows());
        if group.num_rows() < 0 || rows > MAX_ROWS {
            return Err(refused(format!("{} rows", group.num_rows())));
        }
        for column in group.columns() {
            let name = column.column_descr().name();
            if column.file_path().is_some_and(|path| !path.is_empty()) {
                return Err(refused(format!("column {name} lies in another file")));
            }
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
            let inside = range.and_then(|(start, size)| start.checked_add(size)).is_some_and(|end| end <= len);
            if !inside {
                let size = column.compressed_size();
                return Err(refused(format!("column {name}: {size} bytes at {start} lie outside the file of {len} bytes")));
            }
        }
    }
    Ok(())
}
