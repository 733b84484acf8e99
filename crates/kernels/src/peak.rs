//! How fast products could be: benchmarks say what share of it they reach.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Chains of products that do not wait for each other.
const CHAINS: usize = 12;

/// Multiplies and adds pairs of bytes out of registers, `rounds` times, on this thread; returns how many pairs.
///
/// # Panics
/// If this machine lacks `isa`.
pub fn integer_products(isa: Isa, rounds: u32) -> u64 {
    assert!(isa.is_available(), "this machine lacks {}", isa.name());
    isa.dispatch(Integers { rounds });
    u64::from(rounds) * (CHAINS * 4 * LANES) as u64
}

/// Multiplies and adds pairs of f32 out of registers, `rounds` times, on this thread; returns how many pairs.
///
/// # Panics
/// If this machine lacks `isa`.
pub fn float_products(isa: Isa, rounds: u32) -> u64 {
    assert!(isa.is_available(), "this machine lacks {}", isa.name());
    isa.dispatch(Floats { rounds });
    u64::from(rounds) * (CHAINS * LANES) as u64
}

struct Integers {
    rounds: u32,
}

struct Floats {
    rounds: u32,
}

impl Kernel for Integers {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut sums = [S::splat_i(0); CHAINS];
        let (mut codes, step) = (S::splat_i(0), S::splat_i(0x0101_0101));
        for _ in 0..self.rounds {
            // Other codes in each round and another word in each chain: nothing can be computed once for all.
            codes = S::add_i(codes, step);
            for i in 0..CHAINS {
                let open = S::dot4(S::open(sums[i]), codes, i as i32 + 1);
                sums[i] = S::close(open, sums[i]);
            }
        }
        let mut all = sums[0];
        for i in 1..CHAINS {
            all = S::add_i(all, sums[i]);
        }
        std::hint::black_box(S::sum(S::to_f(all)));
    }
}

impl Kernel for Floats {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut sums = [S::splat(0.0); CHAINS];
        let (mut weight, step) = (S::splat(0.0), S::splat(1.0));
        for _ in 0..self.rounds {
            weight = S::add(weight, step);
            for i in 0..CHAINS {
                // Not by one, which the compiler makes an addition.
                sums[i] = S::fma(weight, S::splat((i + 2) as f32), sums[i]);
            }
        }
        let mut all = sums[0];
        for i in 1..CHAINS {
            all = S::add(all, sums[i]);
        }
        std::hint::black_box(S::sum(all));
    }
}
