//! An order of numbers that depends on a seed and an epoch alone: the same on every machine, without a table.

const ROUNDS: u64 = 8;

/// A permutation of `0..len`: a Feistel network over the next even number of bits, applied again while it leads out of the
/// range (Black and Rogaway, CT-RSA 2002). Round *k* adds SplitMix64(key ⊕ SplitMix64(2^32 k + right half)) to the left half
/// by exclusive or; the key is SplitMix64(SplitMix64(seed) ⊕ epoch).
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    len: u64,
    key: u64,
    /// Bits of a half.
    half: u32,
}

impl Shuffle {
    /// The order of `len` numbers for a seed and an epoch.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, key: mix(mix(seed) ^ epoch), half: bits.div_ceil(2).max(1) }
    }

    /// The number that comes at `position`; `None` behind the last.
    pub fn at(&self, position: u64) -> Option<u64> {
        if position >= self.len {
            return None;
        }
        let mut number = self.once(position);
        while number >= self.len {
            number = self.once(number);
        }
        Some(number)
    }

    /// All numbers in their order.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        (0..self.len).filter_map(move |position| self.at(position))
    }

    fn once(&self, number: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (number >> self.half, number & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ mix(self.key ^ mix(round << 32 | right)) & mask);
        }
        left << self.half | right
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Computed by a second version in Python, written from the description above.
    #[test]
    fn known_orders() {
        let order = |len, seed, epoch| Shuffle::new(len, seed, epoch).iter().collect::<Vec<_>>();
        assert_eq!(order(10, 1, 0), [0, 7, 5, 6, 3, 1, 4, 8, 2, 9]);
        assert_eq!(order(10, 1, 1), [7, 2, 8, 3, 4, 0, 1, 6, 9, 5]);
        assert_eq!(order(10, 2, 0), [0, 6, 3, 7, 2, 1, 4, 8, 9, 5]);
        assert_eq!(order(1000, 7, 3)[..6], [987, 30, 641, 69, 786, 956]);
        assert_eq!((order(0, 1, 0), order(1, 0, 0), order(2, 5, 0)), (vec![], vec![0], vec![1, 0]));
    }

    /// 6000 orders of three numbers: each of the six comes about a thousand times (within five standard deviations).
    #[test]
    fn no_order_is_preferred() {
        let mut counts = std::collections::BTreeMap::new();
        (0..6000).for_each(|seed| *counts.entry(Shuffle::new(3, seed, 0).iter().collect::<Vec<_>>()).or_insert(0) += 1);
        assert!(counts.len() == 6 && counts.values().all(|n| (856..1144).contains(n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_number_comes_once(len in 0u64..2000, seed: u64, epoch: u64) {
            let mut order: Vec<_> = Shuffle::new(len, seed, epoch).iter().collect();
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..len));
        }

        #[test]
        fn the_largest_lengths_stay_in_range(position: u64, seed: u64) {
            prop_assert!(Shuffle::new(u64::MAX, seed, 0).at(position.min(u64::MAX - 1)).is_some());
        }
    }
}
