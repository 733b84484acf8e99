//! Any bytes as blocks of any type. The first byte picks the type.

#![no_main]

use coffer_checkpoint::{DType, blocks::decode};
use libfuzzer_sys::fuzz_target;

const DTYPES: [DType; 12] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F64,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, blocks)) = bytes.split_first() else { return };
    let dtype = DTYPES[usize::from(first) % DTYPES.len()];
    let mut out = vec![0.0; blocks.len() / dtype.block_bytes() * dtype.block_len()];
    let whole = blocks.len() % dtype.block_bytes() == 0;
    assert_eq!(decode(dtype, blocks, &mut out).is_ok(), whole);
});
