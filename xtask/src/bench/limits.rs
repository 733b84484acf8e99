//! What the machine could do at best: reading memory, and multiplying out of registers.

use super::THREADS;
use coffer_kernels::{
    Isa,
    peak::{float_products, integer_products},
};
use std::{thread, time::Instant};

/// Rounds that take some tenths of a second.
const ROUNDS: u32 = 30_000_000;
/// Times that each is tried; the best counts.
const TRIES: usize = 5;

/// Bytes a second of reading `bytes` of memory with all threads.
pub(super) fn bandwidth(bytes: usize) -> f64 {
    let memory = vec![1u64; bytes / 8];
    let share = memory.len().div_ceil(THREADS);
    let read = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for part in memory.chunks(share) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))));
            }
        });
        bytes as f64 / start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| read()).fold(0.0, f64::max)
}

/// Products a second of pairs of bytes, with all threads on `isa`.
pub(super) fn integers(isa: Isa) -> f64 {
    products(isa, integer_products)
}

/// Products a second of pairs of f32, with all threads on `isa`.
pub(super) fn floats(isa: Isa) -> f64 {
    products(isa, float_products)
}

fn products(isa: Isa, multiply: fn(Isa, u32) -> u64) -> f64 {
    let run = || {
        let start = Instant::now();
        let running: Vec<_> = (0..THREADS).map(|_| thread::spawn(move || multiply(isa, ROUNDS))).collect();
        let done: u64 = running.into_iter().filter_map(|thread| thread.join().ok()).sum();
        done as f64 / start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| run()).fold(0.0, f64::max)
}
