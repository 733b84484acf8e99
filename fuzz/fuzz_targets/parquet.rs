//! Any bytes as a Parquet file: an error, or rows of which each is a JSON object or an error.

#![no_main]

use coffer_checkpoint::MemoryAt;
use coffer_parquet::{PageCache, Rows};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let Ok(rows) = Rows::open(0, Arc::new(MemoryAt::new("fuzz", bytes.to_vec())), Arc::new(PageCache::default())) else { return };
    let count = rows.count();
    for row in (0..count.min(4)).chain([count.saturating_sub(1), count]) {
        if let Ok(record) = rows.record(row) {
            assert!(row < count && record.starts_with(b"{") && record.ends_with(b"}"));
        }
    }
});
