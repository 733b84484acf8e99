//! The numeric contract (docs/numerics.md): every operation has a scalar twin that defines its bits, and SIMD
//! versions that must equal it. The only crate with `unsafe`; it also owns the threads, since it alone writes
//! disjoint parts of one buffer from several of them.

#![expect(clippy::needless_range_loop, reason = "one counter indexes several arrays of registers")]

pub mod cpu;
pub mod isa;
pub mod kv;
pub mod math;
pub mod matrix;
pub mod peak;

mod activations;
mod attention;
mod float_env;
mod large_pages;
mod pool;
mod product;
mod rope;
mod router;
mod rows;
mod shared;
mod simd;
mod wide;

pub use cpu::Cpu;
pub use isa::Isa;
pub use kv::{KvFormat, KvPage, KvShape};
pub use matrix::{Matrix, MatrixBuilder, MatrixError};
pub use wide::Wide;

/// Version of the numeric contract; certificates, receipts and variant digests name it.
pub const CONTRACT: &str = "1";
