//! Any bytes as a sealed stream. The header's tag is put right, so that the segments are reached: none opens by chance, but a
//! stream that was sealed and then changed at one place by the fuzzer must be refused as well.

#![no_main]

use coffer_seal::floe;
use libfuzzer_sys::fuzz_target;

const KEY: [u8; 32] = [7; 32];

fuzz_target!(|input: (u16, u8, u16, &[u8])| {
    let (segment_len, mask, at, bytes) = input;
    assert!(floe::open(&KEY, b"", bytes).is_err(), "nobody sealed this");
    let Ok(mut stream) = floe::seal(&KEY, b"", u32::from(segment_len), bytes) else { return };
    assert_eq!(*floe::open(&KEY, b"", &stream).expect("just sealed"), bytes);
    let at = usize::from(at) % stream.len();
    stream[at] ^= mask;
    assert_eq!(floe::open(&KEY, b"", &stream).is_ok(), mask == 0, "byte {at} was changed");
    assert!(floe::open(&KEY, b"", &stream[..at]).is_err(), "cut");
});
