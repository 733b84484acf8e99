//! Any bytes under any of the names that steer the scanner. The first byte picks the name.

#![no_main]

use coffer_scan::scan_bytes;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 7] = ["a.bin", "a.pt", "a.safetensors", "a.gguf", "config.json", "chat_template.jinja", "a.npy"];

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, file)) = bytes.split_first() else { return };
    let report = scan_bytes(NAMES[usize::from(first) % NAMES.len()], file);
    assert_eq!(report.files, 1);
});
