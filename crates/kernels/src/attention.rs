//! Causal attention. Positions are cut into segments of [`SEGMENT`], counted from 0. For one token and head, with p its position:
//!
//! - score of position j = (q · kⱼ, in order of channels) · scale; where scores have a bound, bound · tanh(score / bound);
//! - in each segment: m = largest score; weight wⱼ = exp(scoreⱼ − m); s = their sum in 16 lanes, lane = j mod 16, and the tree;
//!   oᵢ = Σ wⱼ · vⱼᵢ, in order of j;
//! - segments are joined in order: m' = the larger m; each s and o times exp(its m − m'); sums (Milakov and Gimelshein, arXiv:1805.02867);
//! - output channel = o / s.
//!
//! Everything depends on p and absolute positions alone, so neither the cut of a prompt nor the pages nor the threads show.

use crate::kv::{KvPage, KvShape, PAGE};
use crate::math::{exp_f32, exp_lanes, softcap_lanes};
use crate::rows::{largest, write};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::{Isa, pool::Pool};
use std::ops::Range;
use std::sync::Arc;

/// One sequence's part of an attention step.
pub struct AttentionTask<'a> {
    /// Queries of this sequence's new tokens, `[tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// Keys and values; the first `past + tokens` positions are filled.
    pub pages: &'a [Arc<KvPage>],
    /// Positions before the first new token.
    pub past: usize,
    /// New tokens.
    pub tokens: usize,
    /// Output, `[tokens, heads, head_dim]`.
    pub out: &'a mut [f32],
}

/// What all sequences of a step have in common.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Keys and values.
    pub kv: KvShape,
    /// Attend to the last so many positions only.
    pub window: Option<usize>,
    /// What scores are multiplied by; 1/√head_dim mostly.
    pub scale: f32,
    /// Scores are bounded by this: bound · tanh(score / bound).
    pub bound: Option<f32>,
}

/// Positions whose weights share a largest score.
const SEGMENT: usize = 4 * PAGE;
/// Rows that share the reads of a key or value.
const ROWS: usize = 4;
/// Tokens of a part.
const TOKENS: usize = 8;

/// Attention of all `tasks`. A sequence of few new tokens is cut by segments as well, so that threads share a long one.
pub(crate) fn attention(isa: Isa, pool: &Pool, shape: AttentionShape, tasks: &mut [AttentionTask<'_>]) {
    let views: Vec<View<'_>> = tasks.iter_mut().map(|task| View::new(shape, task)).collect();
    let mut parts = Vec::new();
    let mut kept = 0;
    for view in &views {
        let segments = view.segments(0..view.tokens);
        let cut = view.tokens <= TOKENS && segments.len() > 1;
        for first in (0..view.tokens).step_by(TOKENS).rev() {
            let tokens = first..(first + TOKENS).min(view.tokens);
            for kv_head in 0..shape.kv.kv_heads {
                let rows = Rows { view, kv_head, tokens: tokens.clone() };
                parts.push((rows.clone(), if cut { Some(kept) } else { None }));
                kept += if cut { segments.len() * rows.states() } else { 0 };
            }
        }
    }
    let mut states = vec![0.0; kept];
    let states = Shared::new(&mut states);
    let mut jobs = Vec::with_capacity(parts.len());
    for (rows, at) in &parts {
        let segments = rows.view.segments(rows.tokens.clone());
        match at {
            None => jobs.push(Job { rows, segments, work: Work::All }),
            Some(at) => jobs.extend(segments.clone().map(|segment| {
                let at = at + (segment - segments.start) * rows.states();
                Job { rows, segments: segment..segment + 1, work: Work::Segment(states, at) }
            })),
        }
    }
    pool.run(jobs.len(), &|i| isa.dispatch(&jobs[i]));
    let joins: Vec<_> = parts.iter().filter_map(|(rows, at)| Some((rows, (*at)?))).collect();
    pool.run(joins.len(), &|i| {
        let (rows, at) = joins[i];
        let segments = rows.view.segments(rows.tokens.clone());
        isa.dispatch(&Job { rows, segments, work: Work::Join(states, at) });
    });
}

/// A task whose output several threads write.
struct View<'a> {
    shape: AttentionShape,
    q: &'a [f32],
    pages: &'a [Arc<KvPage>],
    past: usize,
    tokens: usize,
    out: Shared<'a>,
}

/// Some tokens of a task with the heads that share a key-value head. A row is one of the tokens with one of the heads; its state is
/// `[width]` channels of o, m and s.
#[derive(Clone)]
struct Rows<'a> {
    view: &'a View<'a>,
    kv_head: usize,
    tokens: Range<usize>,
}

struct Job<'a> {
    rows: &'a Rows<'a>,
    segments: Range<usize>,
    work: Work<'a>,
}

#[derive(Clone, Copy)]
enum Work<'a> {
    /// From the cache to the output.
    All,
    /// From the cache to the states from here on.
    Segment(Shared<'a>, usize),
    /// From the states of the segments, from here on, to the output.
    Join(Shared<'a>, usize),
}

impl<'a> View<'a> {
    fn new(shape: AttentionShape, task: &'a mut AttentionTask<'_>) -> Self {
        let AttentionTask { q, pages, past, tokens, ref mut out } = *task;
        let KvShape { kv_heads, head_dim, .. } = shape.kv;
        assert!(kv_heads > 0 && shape.heads.is_multiple_of(kv_heads), "{} heads share {kv_heads}", shape.heads);
        assert!(q.len() == tokens * shape.heads * head_dim && out.len() == q.len(), "{tokens} queries in {} floats", q.len());
        assert!(past + tokens <= pages.len() * PAGE, "{past} + {tokens} positions in {} pages", pages.len());
        assert!(pages.iter().all(|page| page.shape() == shape.kv), "a page of another shape");
        assert!(shape.window != Some(0), "a window of no position");
        Self { shape, q, pages, past, tokens, out: Shared::new(out) }
    }

    /// Positions that a token attends to.
    fn positions(&self, token: usize) -> Range<usize> {
        let end = self.past + token + 1;
        self.shape.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Segments that any of these tokens attends to.
    fn segments(&self, tokens: Range<usize>) -> Range<usize> {
        if tokens.is_empty() {
            return 0..0;
        }
        self.positions(tokens.start).start / SEGMENT..self.positions(tokens.end - 1).end.div_ceil(SEGMENT)
    }
}

impl Rows<'_> {
    fn group(&self) -> usize {
        self.view.shape.heads / self.view.shape.kv.kv_heads
    }
    fn len(&self) -> usize {
        self.tokens.len() * self.group()
    }
    /// Floats of a row's state.
    fn state(&self) -> usize {
        self.view.shape.kv.width() + 2
    }
    /// Floats of all states.
    fn states(&self) -> usize {
        self.len() * self.state()
    }
    /// Where a row's query and output begin.
    fn at(&self, row: usize) -> usize {
        let (token, head) = (self.tokens.start + row / self.group(), self.kv_head * self.group() + row % self.group());
        (token * self.view.shape.heads + head) * self.view.shape.kv.head_dim
    }
    /// Positions of a segment that a row attends to, counted from the segment's first.
    #[inline(always)]
    fn positions(&self, row: usize, segment: usize) -> Range<usize> {
        let Range { start, end } = self.view.positions(self.tokens.start + row / self.group());
        let (first, past) = (segment * SEGMENT, (segment + 1) * SEGMENT);
        start.clamp(first, past) - first..end.clamp(first, past) - first
    }
}

impl Kernel for &Job<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let rows = self.rows;
        match self.work {
            Work::All => {
                let mut room = Room::new(rows);
                let (mut joined, mut next) = (vec![0.0; rows.states()], vec![0.0; rows.states()]);
                for segment in self.segments.clone() {
                    rows.attend::<S>(segment, &mut room, &mut next);
                    rows.join::<S>(segment, &next, &mut joined);
                }
                rows.finish::<S>(&joined);
            }
            Work::Segment(states, at) => {
                // SAFETY: no other job has this segment of these rows.
                let states = unsafe { states.slice(at, rows.states()) };
                rows.attend::<S>(self.segments.start, &mut Room::new(rows), states);
            }
            Work::Join(states, at) => {
                let mut joined = vec![0.0; rows.states()];
                for (i, segment) in self.segments.clone().enumerate() {
                    // SAFETY: those that wrote the states are done, and no other job has these.
                    let states = unsafe { states.slice(at + i * rows.states(), rows.states()) };
                    rows.join::<S>(segment, states, &mut joined);
                }
                rows.finish::<S>(&joined);
            }
        }
    }
}

/// Where a job works.
struct Room {
    /// A page's keys or values.
    page: Vec<f32>,
    /// Scores, then weights, `[rows, SEGMENT]`.
    weights: Vec<f32>,
}

impl Room {
    fn new(rows: &Rows<'_>) -> Self {
        Self { page: vec![0.0; PAGE * rows.view.shape.kv.width()], weights: vec![0.0; rows.len() * SEGMENT] }
    }
}

impl Rows<'_> {
    /// States of the rows that attend to something in `segment`, of these positions alone.
    #[inline(always)]
    fn attend<S: Simd>(&self, segment: usize, room: &mut Room, states: &mut [f32]) {
        let (state, width) = (self.state(), self.view.shape.kv.width());
        let attended = self.positions(0, segment).start..self.positions(self.len() - 1, segment).end;
        let pages = attended.start / PAGE..attended.end.div_ceil(PAGE);
        let page = |i: usize| &self.view.pages[segment * SEGMENT / PAGE + i];
        let Room { page: decoded, weights } = room;
        for i in pages.clone() {
            let keys = page(i).keys::<S>(self.kv_head, decoded);
            for first in (0..self.len()).step_by(ROWS) {
                let weights = &mut weights[first * SEGMENT + i * PAGE..];
                match (self.len() - first).min(ROWS) {
                    1 => self.scores::<S, 1>(keys, segment, i * PAGE, first, weights),
                    2 => self.scores::<S, 2>(keys, segment, i * PAGE, first, weights),
                    3 => self.scores::<S, 3>(keys, segment, i * PAGE, first, weights),
                    _ => self.scores::<S, ROWS>(keys, segment, i * PAGE, first, weights),
                }
            }
        }
        for (row, (weights, state)) in weights.chunks_exact_mut(SEGMENT).zip(states.chunks_exact_mut(state)).enumerate() {
            let (o, sums) = state.split_at_mut(width);
            o.fill(0.0);
            let attended = self.positions(row, segment);
            if !attended.is_empty() {
                let [max, sum] = self.softmax::<S>(attended, weights);
                sums.copy_from_slice(&[max, sum]);
            }
        }
        for i in pages {
            let values = page(i).values::<S>(self.kv_head, decoded);
            for first in (0..self.len()).step_by(ROWS) {
                let (weights, states) = (&weights[first * SEGMENT..], &mut states[first * state..]);
                match (self.len() - first).min(ROWS) {
                    1 => self.weigh::<S, 1>(values, segment, i * PAGE, first, weights, states),
                    2 => self.weigh::<S, 2>(values, segment, i * PAGE, first, weights, states),
                    3 => self.weigh::<S, 3>(values, segment, i * PAGE, first, weights, states),
                    _ => self.weigh::<S, ROWS>(values, segment, i * PAGE, first, weights, states),
                }
            }
        }
    }

    /// Scores, not scaled yet, of the rows `first..first + R` with the page at `at` of the segment; at least those that they attend to.
    #[inline(always)]
    fn scores<S: Simd, const R: usize>(&self, keys: &[f32], segment: usize, at: usize, first: usize, scores: &mut [f32]) {
        let head_dim = self.view.shape.kv.head_dim;
        let mut q: [&[f32]; R] = [&[]; R];
        let (mut start, mut end) = (SEGMENT, 0);
        for r in 0..R {
            q[r] = &self.view.q[self.at(first + r)..][..head_dim];
            let attended = self.positions(first + r, segment);
            (start, end) = if attended.is_empty() { (start, end) } else { (start.min(attended.start), end.max(attended.end)) };
        }
        let mut group = start.saturating_sub(at) / LANES;
        let end = end.saturating_sub(at).min(PAGE).div_ceil(LANES);
        while group < end {
            if S::WIDE && end - group >= 4 {
                products::<S, R, 4>(keys, q, group, scores);
                group += 4;
            } else {
                products::<S, R, 1>(keys, q, group, scores);
                group += 1;
            }
        }
    }

    /// Turns scores into weights; those of positions that are not attended to are 0 in the vectors that the others touch, and anything elsewhere.
    /// Returns the largest score and the sum of weights.
    #[inline(always)]
    fn softmax<S: Simd>(&self, attended: Range<usize>, weights: &mut [f32]) -> [f32; 2] {
        let AttentionShape { scale, bound, .. } = self.view.shape;
        let vectors = attended.start / LANES * LANES..attended.end.next_multiple_of(LANES);
        for at in vectors.clone().step_by(LANES) {
            let lanes = &mut weights[at..at + LANES];
            // SAFETY: sixteen floats, here and below.
            let mut score = S::mul(unsafe { S::load(lanes.as_ptr()) }, S::splat(scale));
            if let Some(bound) = bound {
                score = softcap_lanes::<S>(score, bound);
            }
            // SAFETY: as above.
            unsafe { S::store(lanes.as_mut_ptr(), score) };
        }
        weights[vectors.start..attended.start].fill(f32::NEG_INFINITY);
        weights[attended.end..vectors.end].fill(f32::NEG_INFINITY);
        let weights = &mut weights[vectors];
        let max = largest::<S>(weights);
        let mut sum = S::splat(0.0);
        for lanes in weights.chunks_exact_mut(LANES) {
            // SAFETY: as above.
            let weight = exp_lanes::<S>(S::sub(unsafe { S::load(lanes.as_ptr()) }, S::splat(max)));
            sum = S::add(sum, weight);
            // SAFETY: as above.
            unsafe { S::store(lanes.as_mut_ptr(), weight) };
        }
        [max, S::sum(sum)]
    }

    /// Adds the weighted values of the page at `at` of the segment to the rows `first..first + R`, each from its own first position to its
    /// own last: a value that a row does not attend to may be infinite.
    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(
        &self,
        values: &[f32],
        segment: usize,
        at: usize,
        first: usize,
        weights: &[f32],
        states: &mut [f32],
    ) {
        let (width, state) = (self.view.shape.kv.width(), self.state());
        let mut attended = [const { 0..0 }; R];
        let (mut start, mut end) = (0, PAGE);
        for r in 0..R {
            let Range { start: from, end: to } = self.positions(first + r, segment);
            attended[r] = from.saturating_sub(at).min(PAGE)..to.saturating_sub(at).min(PAGE);
            (start, end) = (start.max(attended[r].start), end.min(attended[r].end));
        }
        let end = end.max(start);
        for r in 0..R {
            let (weights, o) = (&weights[r * SEGMENT + at..][..PAGE], &mut states[r * state..][..width]);
            sums::<S, 1, 4>(values, attended[r].start..start.min(attended[r].end), weights, o, state);
        }
        if S::WIDE || R == 1 {
            sums::<S, R, 4>(values, start..end, &weights[at..], states, state);
        } else {
            sums::<S, R, 1>(values, start..end, &weights[at..], states, state);
        }
        for r in 0..R {
            let (weights, o) = (&weights[r * SEGMENT + at..][..PAGE], &mut states[r * state..][..width]);
            sums::<S, 1, 4>(values, end.max(attended[r].start)..attended[r].end, weights, o, state);
        }
    }

    /// Joins the states of a segment to those of the segments before it.
    #[inline(always)]
    fn join<S: Simd>(&self, segment: usize, next: &[f32], joined: &mut [f32]) {
        let width = self.view.shape.kv.width();
        for (row, (next, joined)) in next.chunks_exact(self.state()).zip(joined.chunks_exact_mut(self.state())).enumerate() {
            if self.positions(row, segment).is_empty() {
                continue;
            }
            if self.view.positions(self.tokens.start + row / self.group()).start >= segment * SEGMENT {
                joined.copy_from_slice(next);
                continue;
            }
            let (max, later) = (joined[width], next[width]);
            let larger = if later > max { later } else { max };
            let [old, new] = [exp_f32(max - larger), exp_f32(later - larger)];
            for at in (0..width).step_by(LANES) {
                let (next, joined) = (&next[at..at + LANES], &mut joined[at..at + LANES]);
                // SAFETY: sixteen floats each.
                unsafe {
                    let (o, more) = (S::load(joined.as_ptr()), S::load(next.as_ptr()));
                    S::store(joined.as_mut_ptr(), S::add(S::mul(o, S::splat(old)), S::mul(more, S::splat(new))));
                }
            }
            joined[width] = larger;
            joined[width + 1] = joined[width + 1] * old + next[width + 1] * new;
        }
    }

    /// Divides by the sums of weights and writes the output.
    #[inline(always)]
    fn finish<S: Simd>(&self, states: &[f32]) {
        let KvShape { head_dim, .. } = self.view.shape.kv;
        let width = self.view.shape.kv.width();
        for (row, state) in states.chunks_exact(self.state()).enumerate() {
            // SAFETY: no other job has these tokens and heads.
            let out = unsafe { self.view.out.slice(self.at(row), head_dim) };
            for at in (0..head_dim).step_by(LANES) {
                let o = &state[at..at + LANES];
                // SAFETY: sixteen floats.
                write::<S>(out, at, S::div(unsafe { S::load(o.as_ptr()) }, S::splat(state[width + 1])));
            }
        }
    }
}

/// Products of `R` queries with `G` groups of keys from `group` on, into rows of a segment.
#[inline(always)]
fn products<S: Simd, const R: usize, const G: usize>(keys: &[f32], q: [&[f32]; R], group: usize, scores: &mut [f32]) {
    let head_dim = q[0].len();
    let keys = &keys[group * head_dim * LANES..][..G * head_dim * LANES];
    let q = q.map(|q| &q[..head_dim]);
    let mut acc = [[S::splat(0.0); G]; R];
    for channel in 0..head_dim {
        for g in 0..G {
            // SAFETY: `keys` holds G groups of so many vectors.
            let k = unsafe { S::load(keys.as_ptr().add((g * head_dim + channel) * LANES)) };
            for r in 0..R {
                acc[r][g] = S::fma(S::splat(q[r][channel]), k, acc[r][g]);
            }
        }
    }
    for r in 0..R {
        for g in 0..G {
            let lanes = &mut scores[r * SEGMENT + (group + g) * LANES..][..LANES];
            // SAFETY: sixteen floats.
            unsafe { S::store(lanes.as_mut_ptr(), acc[r][g]) };
        }
    }
}

/// Adds weighted values of `positions` to the channels of `R` states, `C` vectors at a time.
#[inline(always)]
fn sums<S: Simd, const R: usize, const C: usize>(
    values: &[f32],
    positions: Range<usize>,
    weights: &[f32],
    states: &mut [f32],
    state: usize,
) {
    let width = values.len() / PAGE;
    if positions.is_empty() {
        return;
    }
    let mut channel = 0;
    while width - channel >= C * LANES {
        sum_channels::<S, R, C>(values, positions.clone(), weights, states, state, channel);
        channel += C * LANES;
    }
    while channel < width {
        sum_channels::<S, R, 1>(values, positions.clone(), weights, states, state, channel);
        channel += LANES;
    }
}

#[inline(always)]
fn sum_channels<S: Simd, const R: usize, const C: usize>(
    values: &[f32],
    positions: Range<usize>,
    weights: &[f32],
    states: &mut [f32],
    state: usize,
    channel: usize,
) {
    let width = values.len() / PAGE;
    let mut acc = [[S::splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            let o = &states[r * state + channel + c * LANES..][..LANES];
            // SAFETY: sixteen floats, here and below.
            acc[r][c] = unsafe { S::load(o.as_ptr()) };
        }
    }
    for j in positions {
        let v = &values[j * width + channel..][..C * LANES];
        for c in 0..C {
            // SAFETY: as above.
            let v = unsafe { S::load(v[c * LANES..].as_ptr()) };
            for r in 0..R {
                acc[r][c] = S::fma(S::splat(weights[r * SEGMENT + j]), v, acc[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            let o = &mut states[r * state + channel + c * LANES..][..LANES];
            // SAFETY: as above.
            unsafe { S::store(o.as_mut_ptr(), acc[r][c]) };
        }
    }
}
