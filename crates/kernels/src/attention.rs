//! Causal attention. For one token and head, with p its position:
//!
//! - score of position j = (q · kⱼ) · scale, the product in 16 lanes and the tree; where scores have a bound, bound · tanh(score / bound);
//! - weight wⱼ = exp(scoreⱼ − largest score); their sum in 16 lanes, lane = j mod 16, and the tree;
//! - output channel = (Σ wⱼ · vⱼ, in order of j) / sum of weights.
//!
//! Everything depends on p and absolute positions alone, so neither the cut of a prompt nor the cache shows.

use crate::math::{exp_lanes, softcap_lanes};
use crate::rows::{largest, vector, write};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};

/// One sequence's part of an attention step.
pub struct AttentionTask<'a> {
    /// Queries of this sequence's new tokens, `[tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// Cached keys `[kv_heads, capacity, head_dim]`; the first `past + tokens` positions are filled.
    pub k: &'a [f32],
    /// Cached values, same layout.
    pub v: &'a [f32],
    /// Positions that the cache can hold: the stride between heads.
    pub capacity: usize,
    /// Positions before the first new token.
    pub past: usize,
    /// New tokens.
    pub tokens: usize,
    /// Output, `[tokens, heads, head_dim]`.
    pub out: &'a mut [f32],
}

/// Head counts shared by all sequences of a step.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Attend to the last so many positions only.
    pub window: Option<usize>,
    /// What scores are multiplied by; 1/√head_dim mostly.
    pub scale: f32,
    /// Scores are bounded by this: bound · tanh(score / bound).
    pub bound: Option<f32>,
}

/// Query heads that share the reads of a key or value.
const GROUP: usize = 4;
/// Channels that a pass over the values takes, in vectors.
const CHANNELS: usize = 4;

/// Some tokens of one sequence for one key-value head.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) shape: AttentionShape,
    pub(crate) q: &'a [f32],
    /// Keys of this head, `[capacity, head_dim]`.
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) kv_head: usize,
    pub(crate) past: usize,
    /// Tokens `first..end` of the sequence's new ones.
    pub(crate) first: usize,
    pub(crate) end: usize,
    pub(crate) out: Shared<'a>,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let AttentionShape { heads, kv_heads, .. } = self.shape;
        let group = heads / kv_heads;
        let longest = (self.past + self.end).next_multiple_of(LANES);
        let mut scores = vec![0.0; GROUP * self.shape.window.map_or(longest, |w| longest.min(w.saturating_add(2 * LANES)))];
        for token in self.first..self.end {
            for first in (0..group).step_by(GROUP) {
                let head = self.kv_head * group + first;
                match (group - first).min(GROUP) {
                    1 => self.heads::<S, 1>(token, head, &mut scores),
                    2 => self.heads::<S, 2>(token, head, &mut scores),
                    3 => self.heads::<S, 3>(token, head, &mut scores),
                    _ => self.heads::<S, GROUP>(token, head, &mut scores),
                }
            }
        }
    }
}

impl Part<'_> {
    /// Attends with heads `head..head + H` of one token.
    #[inline(always)]
    fn heads<S: Simd, const H: usize>(self, token: usize, head: usize, scores: &mut [f32]) {
        let AttentionShape { heads, head_dim, window, .. } = self.shape;
        let end = self.past + token + 1;
        let start = window.map_or(0, |window| end.saturating_sub(window));
        // Scores start at a multiple of 16, so that a score's lane is its position's.
        let base = start / LANES * LANES;
        let stride = (end - base).next_multiple_of(LANES);
        let scores = &mut scores[..H * stride];
        scores.fill(f32::NEG_INFINITY);
        let at = (token * heads + head) * head_dim;
        self.scores::<S, H>(&self.q[at..][..H * head_dim], start..end, base, stride, scores);
        let mut sums = [0.0; H];
        for h in 0..H {
            let weights = &mut scores[h * stride..][..stride];
            if let Some(bound) = self.shape.bound {
                for at in (0..stride).step_by(LANES) {
                    // SAFETY: whole vectors, since the stride is.
                    unsafe { S::store(weights[at..].as_mut_ptr(), softcap_lanes::<S>(S::load(weights[at..].as_ptr()), bound)) };
                }
                // What is not attended to was bounded with the others.
                weights[..start - base].fill(f32::NEG_INFINITY);
                weights[end - base..].fill(f32::NEG_INFINITY);
            }
            let max = S::splat(largest::<S>(weights));
            let mut sum = S::splat(0.0);
            for at in (0..stride).step_by(LANES) {
                // SAFETY: whole vectors, since the stride is.
                let weight = exp_lanes::<S>(S::sub(unsafe { S::load(weights[at..].as_ptr()) }, max));
                sum = S::add(sum, weight);
                // SAFETY: as above.
                unsafe { S::store(weights[at..].as_mut_ptr(), weight) };
            }
            sums[h] = S::sum(sum);
        }
        // SAFETY: no other part has these tokens and heads.
        let out = unsafe { self.out.slice(at, H * head_dim) };
        self.values::<S, H>(scores, start..end, base, stride, &sums, out);
    }

    #[inline(always)]
    fn scores<S: Simd, const H: usize>(
        self,
        q: &[f32],
        positions: std::ops::Range<usize>,
        base: usize,
        stride: usize,
        scores: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        let scale = self.shape.scale;
        for j in positions {
            let k = &self.k[j * head_dim..][..head_dim];
            let mut sums = [S::splat(0.0); H];
            for at in (0..head_dim).step_by(LANES) {
                let k = vector::<S>(k, at, 0.0);
                for h in 0..H {
                    let q = vector::<S>(&q[h * head_dim..][..head_dim], at, 0.0);
                    sums[h] = S::add(sums[h], S::mul(q, k));
                }
            }
            for h in 0..H {
                scores[h * stride + j - base] = S::sum(sums[h]) * scale;
            }
        }
    }

    #[inline(always)]
    fn values<S: Simd, const H: usize>(
        self,
        weights: &[f32],
        positions: std::ops::Range<usize>,
        base: usize,
        stride: usize,
        sums: &[f32; H],
        out: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        let mut channel = 0;
        while head_dim - channel >= LANES * CHANNELS {
            let mut acc = [[S::splat(0.0); CHANNELS]; H];
            for j in positions.clone() {
                let v = &self.v[j * head_dim + channel..][..LANES * CHANNELS];
                for c in 0..CHANNELS {
                    // SAFETY: sixteen floats follow.
                    let v = unsafe { S::load(v[c * LANES..].as_ptr()) };
                    for h in 0..H {
                        acc[h][c] = S::add(acc[h][c], S::mul(S::splat(weights[h * stride + j - base]), v));
                    }
                }
            }
            for h in 0..H {
                for c in 0..CHANNELS {
                    let x = S::div(acc[h][c], S::splat(sums[h]));
                    write::<S>(&mut out[h * head_dim..][..head_dim], channel + c * LANES, x);
                }
            }
            channel += LANES * CHANNELS;
        }
        while channel < head_dim {
            let mut acc = [S::splat(0.0); H];
            for j in positions.clone() {
                let v = vector::<S>(&self.v[j * head_dim..][..head_dim], channel, 0.0);
                for h in 0..H {
                    acc[h] = S::add(acc[h], S::mul(S::splat(weights[h * stride + j - base]), v));
                }
            }
            for h in 0..H {
                write::<S>(&mut out[h * head_dim..][..head_dim], channel, S::div(acc[h], S::splat(sums[h])));
            }
            channel += LANES;
        }
    }
}

/// Cuts a task into parts for the threads.
pub(crate) fn parts<'a>(shape: AttentionShape, task: &'a mut AttentionTask<'_>) -> impl Iterator<Item = Part<'a>> {
    /// Tokens of a part.
    const TOKENS: usize = 8;
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let AttentionTask { q, k, v, capacity, past, tokens, ref mut out } = *task;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads}");
    assert!(tokens <= capacity && past <= capacity - tokens, "{past} + {tokens} positions in a cache of {capacity}");
    assert!(q.len() == tokens * heads * head_dim && out.len() == q.len(), "{tokens} queries in {} floats", q.len());
    assert!(k.len() == kv_heads * capacity * head_dim && v.len() == k.len(), "a cache of {capacity} in {} floats", k.len());
    assert!(shape.window != Some(0), "a window of no position");
    let out = Shared::new(out);
    let firsts = (0..tokens).step_by(TOKENS).rev();
    firsts.flat_map(move |first| (0..kv_heads).map(move |kv_head| (first, kv_head))).map(move |(first, kv_head)| {
        let cache = kv_head * capacity * head_dim..(kv_head + 1) * capacity * head_dim;
        let (k, v) = (&k[cache.clone()], &v[cache]);
        Part { shape, q, k, v, kv_head, past, first, end: (first + TOKENS).min(tokens), out }
    })
}
