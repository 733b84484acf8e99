//! Plain versions of everything but products.

use super::canon;
use coffer_kernels::KvFormat;
use half::f16;
use std::ops::Range;

/// Sixteen interleaved sums and the tree.
pub(crate) fn sum(x: impl IntoIterator<Item = f32>) -> f32 {
    sum_from(0, x)
}

/// The same, where the first element belongs to lane `lane`.
pub(crate) fn sum_from(lane: usize, x: impl IntoIterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 16];
    x.into_iter().enumerate().for_each(|(i, x)| lanes[(lane + i) % 16] += x);
    let mut width = 16;
    while width > 1 {
        width /= 2;
        (0..width).for_each(|l| lanes[l] += lanes[l + width]);
    }
    lanes[0]
}

pub(crate) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

pub(crate) fn exp(x: f32) -> f32 {
    coffer_kernels::math::exp_f32(x)
}

pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (sum(x.iter().map(|x| x * x)) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| canon(x * scale * w)).collect()
}

pub(crate) fn swiglu(gate: f32, up: f32) -> f32 {
    canon(gate / (1.0 + exp(-gate)) * up)
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    canon(1.0 / (1.0 + exp(-x)))
}

/// Experts in the order of their numbers, and their weights: chosen one by one.
pub(crate) fn route(logits: &[f32], chosen: usize, normalized: bool) -> Vec<(usize, f32)> {
    let mut experts = Vec::new();
    for _ in 0..chosen {
        let left = || (0..logits.len()).filter(|expert| !experts.contains(expert));
        let best = left().filter(|&i| !logits[i].is_nan()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        experts.extend(best.or(left().next()));
    }
    experts.sort_unstable();
    let max = largest(logits);
    let part = |i: usize| exp(logits[i] - max);
    let total = if normalized { experts.iter().fold(0.0, |sum, &i| sum + part(i)) } else { sum((0..logits.len()).map(part)) };
    experts.iter().map(|&i| (i, canon(part(i) / total))).collect()
}

pub(crate) fn log_softmax(x: &[f32]) -> Vec<f32> {
    let max = largest(x);
    let log = coffer_kernels::math::ln(f64::from(sum(x.iter().map(|x| exp(x - max))))) as f32;
    x.iter().map(|x| canon(x - max - log)).collect()
}

pub(crate) fn geglu(gate: f32, up: f32) -> f32 {
    let inner = gate + 0.044_715 * (gate * gate * gate);
    canon(gate / (1.0 + exp(-1.595_769 * inner)) * up)
}

pub(crate) fn softcap(x: f32, bound: f32) -> f32 {
    canon(bound * (1.0 - 2.0 / (1.0 + exp(2.0 * (x / bound)))))
}

/// What a cache of `format` keeps of a head's keys or values.
pub(crate) fn kept(x: &[f32], format: KvFormat) -> Vec<f32> {
    match format {
        KvFormat::F32 => x.to_vec(),
        KvFormat::F16 => x.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        KvFormat::Q8_0 => x
            .chunks(32)
            .flat_map(|x| {
                let (codes, scale) = super::product::quantize(x);
                codes.into_iter().map(move |code| code as f32 * f16::from_f32(scale).to_f32())
            })
            .collect(),
    }
}

/// One head of the token at position `positions.end - 1`; `k` and `v` are `[position, head_dim]`.
pub(crate) fn attend(q: &[f32], k: &[f32], v: &[f32], positions: Range<usize>, scale: f32, bound: Option<f32>) -> Vec<f32> {
    let width = q.len();
    let row = |x: &[f32], j: usize| x[j * width..(j + 1) * width].to_vec();
    let dot = |k: Vec<f32>| {
        let score = q.iter().zip(k).fold(0.0f32, |sum, (q, k)| q.mul_add(k, sum)) * scale;
        bound.map_or(score, |bound| softcap(score, bound))
    };
    // Largest score, sum of weights, and weighted values of 256 positions.
    let segment = |positions: Range<usize>| {
        let scores: Vec<f32> = positions.clone().map(|j| dot(row(k, j))).collect();
        let max = largest(&scores);
        let weights: Vec<f32> = scores.iter().map(|s| exp(s - max)).collect();
        let total = sum_from(positions.start, weights.iter().copied());
        let channel = |c: usize| positions.clone().zip(&weights).fold(0.0f32, |sum, (j, w)| w.mul_add(v[j * width + c], sum));
        (max, total, (0..width).map(channel).collect::<Vec<f32>>())
    };
    let segments = (positions.start / 256..positions.end.div_ceil(256))
        .map(|s| segment(positions.start.max(256 * s)..positions.end.min(256 * (s + 1))));
    let joined = segments.reduce(|(a_max, a_total, a), (b_max, b_total, b)| {
        let max = largest(&[a_max, b_max]);
        let (old, new) = (exp(a_max - max), exp(b_max - max));
        (max, a_total * old + b_total * new, a.iter().zip(b).map(|(a, b)| a * old + b * new).collect())
    });
    let (_, total, channels) = joined.unwrap_or_default();
    channels.into_iter().map(|c| canon(c / total)).collect()
}
