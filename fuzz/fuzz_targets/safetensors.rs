//! Any bytes as a safetensors file: an error, or tensors that can all be read.

#![no_main]

use coffer_checkpoint::{MemoryAt, SafetensorsFile, TensorSource};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SafetensorsFile::open("fuzz", Arc::new(MemoryAt::new("fuzz", bytes.to_vec()))) else { return };
    for (id, tensor) in file.index().iter() {
        let mut out = vec![0; tensor.bytes().expect("checked by open") as usize];
        file.read_rows(id, 0..tensor.rows(), &mut out).expect("checked by open");
    }
});
