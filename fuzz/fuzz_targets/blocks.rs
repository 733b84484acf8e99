//! Any bytes as blocks of any type. The first byte picks the type.

#![no_main]

use coffer_checkpoint::{DType, blocks::decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, blocks)) = bytes.split_first() else { return };
    let pick = usize::from(first) % DType::of_weights().count();
    let dtype = DType::of_weights().nth(pick).unwrap_or(DType::F32);
    let mut out = vec![0.0; blocks.len() / dtype.block_bytes() * dtype.block_len()];
    let whole = blocks.len() % dtype.block_bytes() == 0;
    assert_eq!(decode(dtype, blocks, &mut out).is_ok(), whole);
});
