//! Any bytes as a safetensors file of compressed-tensors: an error, or tensors that can all be read.

#![no_main]

use coffer_checkpoint::{MemoryAt, SafetensorsFile, TensorSource, compressed::Joined};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SafetensorsFile::open("fuzz", Arc::new(MemoryAt::new("fuzz", bytes.to_vec()))) else { return };
    let Ok(joined) = Joined::new(Arc::new(file)) else { return };
    for (id, tensor) in joined.index().iter() {
        let Some(bytes) = tensor.bytes().filter(|bytes| *bytes < 1 << 20) else { continue };
        joined.read_rows(id, 0..tensor.rows(), &mut vec![0; bytes as usize]).expect("checked by new");
    }
});
