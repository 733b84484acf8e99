//! Any bytes as a Parquet file: an error, or rows of which each is a JSON object or an error.

#![no_main]

use coffer_checkpoint::MemoryAt;
use coffer_parquet::{PageCache, Rows};
use libfuzzer_sys::fuzz_target;
use std::{panic, sync::Arc};

fuzz_target!(init: {
    // The decoder's panics are caught where it is called, and are errors there; libfuzzer's hook would end the process first.
    // What is caught nowhere ends it all the same.
    panic::set_hook(Box::new(|_| ()));
}, |bytes: &[u8]| {
    let Ok(rows) = Rows::open(0, Arc::new(MemoryAt::new("fuzz", bytes.to_vec())), Arc::new(PageCache::default())) else { return };
    let count = rows.count();
    for row in (0..count.min(4)).chain([count.saturating_sub(1), count]) {
        if let Ok(record) = rows.record(row) {
            assert!(row < count && record.starts_with(b"{") && record.ends_with(b"}"));
        }
    }
});
