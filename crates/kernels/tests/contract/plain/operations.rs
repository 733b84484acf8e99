//! Plain versions of everything but products.

use super::canon;

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

/// One head of the token at position `positions.end - 1`; `k` and `v` are `[position, head_dim]`.
pub(crate) fn attend(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    positions: std::ops::Range<usize>,
    scale: f32,
    bound: Option<f32>,
) -> Vec<f32> {
    let width = q.len();
    let row = |x: &[f32], j: usize| x[j * width..(j + 1) * width].to_vec();
    let dot = |k: Vec<f32>| {
        let score = sum(q.iter().zip(k).map(|(q, k)| q * k)) * scale;
        bound.map_or(score, |bound| softcap(score, bound))
    };
    let scores: Vec<f32> = positions.clone().map(|j| dot(row(k, j))).collect();
    let max = largest(&scores);
    let weights: Vec<f32> = scores.iter().map(|s| exp(s - max)).collect();
    let total = sum_from(positions.start, weights.iter().copied());
    let channel = |c: usize| positions.clone().zip(&weights).fold(0.0, |sum, (j, w)| sum + w * v[j * width + c]);
    (0..width).map(|c| canon(channel(c) / total)).collect()
}
