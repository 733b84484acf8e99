//! Any bytes as a GGUF file: an error, or tensors that can all be read, and metadata that is written as it was read.

#![no_main]

use coffer_checkpoint::{
    GgufFile, MemoryAt, TensorSource,
    gguf::{GgufWriter, Metadata},
};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fn open(bytes: Vec<u8>) -> Option<GgufFile> {
    GgufFile::open("fuzz", Arc::new(MemoryAt::new("fuzz", bytes))).ok()
}

fn shown(metadata: &Metadata) -> String {
    format!("{metadata:?}") // NaN equals NaN here
}

fuzz_target!(|bytes: &[u8]| {
    let Some(file) = open(bytes.to_vec()) else { return };
    for (id, tensor) in file.index().iter() {
        let mut out = vec![0; tensor.bytes().expect("checked by open") as usize];
        file.read_rows(id, 0..tensor.rows(), &mut out).expect("checked by open");
    }
    let written = GgufWriter::new(Vec::new(), file.metadata(), &[]).and_then(GgufWriter::finish).expect("its own metadata");
    let again = open(written).expect("what was written");
    assert_eq!(shown(again.metadata()), shown(file.metadata()));
});
