//! Any bytes as a shard, and any text as the header of an empty one: an error, or tensors that can all be read.

#![no_main]

use coffer_checkpoint::{MemoryAt, TensorSource};
use coffer_store::Shard;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    read(bytes.to_vec());
    let digests = serde_json::json!({ "dtype": "U8", "shape": [0, 32], "data_offsets": [0, 0] });
    let metadata = serde_json::json!({ "coffer_shard": String::from_utf8_lossy(bytes) });
    let header = serde_json::json!({ "__metadata__": metadata, "coffer.digests": digests }).to_string();
    read([&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
});

fn read(bytes: Vec<u8>) {
    let Ok(shard) = Shard::read("fuzz", Arc::new(MemoryAt::new("fuzz", bytes))) else { return };
    for (id, tensor) in shard.index().iter() {
        let room = tensor.bytes().expect("checked when read");
        shard.read_rows(id, 0..tensor.rows(), &mut vec![0; room as usize]).expect("within the file");
    }
    let _ = shard.verify(&mut |_| ());
}
