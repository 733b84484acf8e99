//! Plain matrix products, from raw blocks.

use super::canon;
use coffer_checkpoint::{DType, blocks};
use half::f16;

/// A row times a token.
pub(crate) fn product(dtype: DType, row: &[u8], x: &[f32]) -> f32 {
    if !dtype.is_quantized() {
        let mut w = vec![0.0; x.len()];
        blocks::decode(dtype, row, &mut w).expect("a whole row");
        return canon(w.iter().zip(x).fold(0.0, |sum, (w, x)| w.mul_add(*x, sum)));
    }
    let block = dtype.block_len();
    let sum = row.chunks_exact(dtype.block_bytes()).zip(x.chunks_exact(block)).fold(0.0, |sum, (raw, x)| {
        let Weights { codes, groups, d, m } = weights(dtype, raw);
        let (activations, scale) = quantize(x);
        let (mut integer, mut low) = (0i32, 0i32);
        for (g, &(group_scale, group_min)) in groups.iter().enumerate() {
            let cols = g * block / groups.len()..(g + 1) * block / groups.len();
            integer += group_scale * cols.clone().map(|c| codes[c] * activations[c]).sum::<i32>();
            low += group_min * cols.map(|c| activations[c]).sum::<i32>();
        }
        let value = match (dtype, m) {
            (_, None) => integer as f32 * d,
            (DType::Q2_K | DType::Q4_K | DType::Q5_K, Some(m)) => (low as f32).mul_add(-m, integer as f32 * d),
            (_, Some(m)) => m.mul_add(low as f32, integer as f32 * d),
        };
        value.mul_add(scale, sum)
    });
    canon(sum)
}

/// Codes of a block of activations and their scale.
pub(crate) fn quantize(x: &[f32]) -> (Vec<i32>, f32) {
    let finite = x.iter().all(|x| x.is_finite());
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if !finite || largest < 2f32.powi(-100) {
        return (vec![0; x.len()], if finite { 0.0 } else { f32::NAN });
    }
    let inverse = 127.0 / largest;
    (x.iter().map(|x| ((x * inverse).round_ties_even() as i32).clamp(-127, 127)).collect(), largest / 127.0)
}

/// A raw block taken apart: value = d · group scale · code, minus or plus m · group minimum.
struct Weights {
    codes: Vec<i32>,
    groups: Vec<(i32, i32)>,
    d: f32,
    m: Option<f32>,
}

fn weights(dtype: DType, b: &[u8]) -> Weights {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let nibble = |at: usize, c: usize| i32::from(if c < 16 { b[at + c] & 15 } else { b[at + c - 16] >> 4 });
    let bit = |at: usize, c: usize| i32::from(b[at + c / 8] >> (c % 8) & 1);
    let one = |codes: Vec<i32>, d, m: Option<f32>| Weights { codes, groups: vec![(1, 1)], d, m };
    let six = |at: usize, s: usize| -> (i32, i32) {
        let b = &b[at..];
        let (scale, min) = match s < 4 {
            true => (b[s] & 63, b[s + 4] & 63),
            false => (b[s + 4] & 15 | b[s - 4] >> 6 << 4, b[s + 4] >> 4 | b[s] >> 6 << 4),
        };
        (scale.into(), min.into())
    };
    let low = |at: usize, c: usize| i32::from(b[at + c / 64 * 32 + c % 32] >> (c % 64 / 32 * 4) & 15);
    let pair = |at: usize, c: usize| i32::from(b[at + c / 128 * 32 + c % 32] >> (c % 128 / 32 * 2) & 3);
    let curve = |i: i32| [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113][i as usize];
    match dtype {
        DType::Q8_0 => one((0..32).map(|c| i32::from(b[2 + c] as i8)).collect(), half(0), None),
        DType::Q4_0 => one((0..32).map(|c| nibble(2, c) - 8).collect(), half(0), None),
        DType::Q4_1 => one((0..32).map(|c| nibble(4, c)).collect(), half(0), Some(half(2))),
        DType::Q5_0 => one((0..32).map(|c| nibble(6, c) + 16 * bit(2, c) - 16).collect(), half(0), None),
        DType::Q5_1 => one((0..32).map(|c| nibble(8, c) + 16 * bit(4, c)).collect(), half(0), Some(half(2))),
        DType::Q4_K => Weights {
            codes: (0..256).map(|c| low(16, c)).collect(),
            groups: (0..8).map(|s| six(4, s)).collect(),
            d: half(0),
            m: Some(half(2)),
        },
        DType::Q5_K => Weights {
            codes: (0..256).map(|c| low(48, c) + 16 * i32::from(b[16 + c % 32] >> (c / 32) & 1)).collect(),
            groups: (0..8).map(|s| six(4, s)).collect(),
            d: half(0),
            m: Some(half(2)),
        },
        DType::Q6_K => Weights {
            codes: (0..256)
                .map(|c| {
                    let (n, l, group) = (c / 128, c % 32, c % 128 / 32);
                    let low = b[64 * n + 32 * (group % 2) + l] >> (group / 2 * 4) & 15;
                    let high = b[128 + 32 * n + l] >> (2 * group) & 3;
                    i32::from(low | high << 4) - 32
                })
                .collect(),
            groups: (0..16).map(|s| (i32::from(b[192 + s] as i8), 0)).collect(),
            d: half(208),
            m: None,
        },
        DType::Q3_K => Weights {
            codes: (0..256).map(|c| pair(32, c) + 4 * i32::from(b[c % 32] >> (c / 32) & 1) - 4).collect(),
            groups: (0..16)
                .map(|s| {
                    let low = if s < 8 { b[96 + s] & 15 } else { b[88 + s] >> 4 };
                    let high = b[104 + s % 4] >> (s / 4 * 2) & 3;
                    (i32::from(low | high << 4) - 32, 0)
                })
                .collect(),
            d: half(108),
            m: None,
        },
        DType::Q2_K => Weights {
            codes: (0..256).map(|c| pair(16, c)).collect(),
            groups: (0..16).map(|s| (i32::from(b[s] & 15), i32::from(b[s] >> 4))).collect(),
            d: half(80),
            m: Some(half(82)),
        },
        DType::IQ4_NL => one((0..32).map(|c| curve(nibble(2, c))).collect(), half(0), None),
        DType::IQ4_XS => Weights {
            codes: (0..256).map(|c| curve(nibble(8 + c / 32 * 16, c % 32))).collect(),
            groups: (0..8)
                .map(|s| {
                    let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * s) & 3;
                    (i32::from(b[4 + s / 2] >> (s % 2 * 4) & 15) + 16 * i32::from(high) - 32, 0)
                })
                .collect(),
            d: half(0),
            m: None,
        },
        other => panic!("{other} has no blocks"),
    }
}
