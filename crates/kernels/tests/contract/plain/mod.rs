//! The contract written out as slowly and plainly as it reads in docs/numerics.md, from raw blocks, without panels, lanes or tiles.

pub(crate) mod operations;
pub(crate) mod product;

use coffer_checkpoint::DType;
use half::f16;

pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

pub(crate) fn all_types() -> impl Iterator<Item = DType> {
    FLOATS.into_iter().chain(DType::QUANTIZED)
}

/// A small generator (splitmix64, public domain) for test data.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// About normally distributed.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }
    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
    /// Normal values with a few outliers, zeros, denormals, infinities and NaNs of odd payloads among them.
    pub(crate) fn wild(&mut self, n: usize) -> Vec<f32> {
        const ODD: [u32; 12] = [
            0,
            0x8000_0000,
            1,
            0x8000_0001,
            0x007f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7f80_0001,
            0xffff_ffff,
        ];
        let rarity = [2, 40, 4000, usize::MAX][self.below(4)];
        let scale = [1.0, 1e-38, 1e30, 1e-20][self.below(4)];
        (0..n)
            .map(|_| match self.below(rarity) {
                0 => f32::from_bits(ODD[self.below(ODD.len())]),
                _ => self.normal() * scale * if self.below(100) == 0 { 50.0 } else { 1.0 },
            })
            .collect()
    }
    /// Raw rows of ordinary weights.
    pub(crate) fn rows(&mut self, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
        self.blocks(dtype, rows * cols / dtype.block_len(), |random| f16::from_f32(random.normal() * 0.01))
    }
    /// Raw rows whose codes are random or all extreme and whose scales are any f16 at all.
    pub(crate) fn wild_rows(&mut self, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
        const ODD: [u16; 10] = [0, 0x8000, 1, 0x8001, 0x03ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7c01];
        let rarity = [1, 30, usize::MAX][self.below(3)];
        let mut raw = self.blocks(dtype, rows * cols / dtype.block_len(), |random| match random.below(rarity) {
            0 => f16::from_bits(ODD[random.below(ODD.len())]),
            _ => f16::from_f32(random.normal()),
        });
        if self.below(2) == 0 {
            let fill = [0x00, 0xff, 0x80, 0x7f][self.below(4)];
            for block in raw.chunks_exact_mut(dtype.block_bytes()) {
                let scales = scale_bytes(dtype, block);
                block.fill(fill);
                for (at, pair) in scales {
                    block[at..at + 2].copy_from_slice(&pair);
                }
            }
        }
        raw
    }
    fn blocks(&mut self, dtype: DType, count: usize, mut scale: impl FnMut(&mut Self) -> f16) -> Vec<u8> {
        let mut raw = Vec::new();
        for _ in 0..count {
            let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| self.next() as u8).collect();
            match dtype {
                DType::F32 => block.copy_from_slice(&scale(self).to_f32().to_le_bytes()),
                DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(scale(self).to_f32()).to_le_bytes()),
                _ => {
                    for (at, _) in scale_bytes(dtype, &block) {
                        block[at..at + 2].copy_from_slice(&scale(self).to_le_bytes());
                    }
                }
            }
            raw.extend(block);
        }
        raw
    }
}

/// Where the f16 fields of a block are, and their bytes.
pub(crate) fn scale_bytes(dtype: DType, block: &[u8]) -> Vec<(usize, [u8; 2])> {
    let at: &[usize] = match dtype {
        DType::F16 | DType::Q8_0 | DType::Q4_0 | DType::Q5_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        _ => &[],
    };
    at.iter().map(|&at| (at, [block[at], block[at + 1]])).collect()
}

/// The one NaN.
pub(crate) fn canon(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x }
}

pub(crate) fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: element {i} is {got:e}, not {want:e}");
    }
}
