//! Keys and values that attention reads, in pages of one layer.
//!
//! A page holds [`PAGE`] positions. Keys lie in groups of 16 positions, channel by channel, so that a score's lane is its
//! position's; values lie position by position, filled up to whole vectors. Both are `[kv_heads, …]`.

use crate::activations::quantize_block;
use crate::simd::{LANES, Simd};
use half::f16;
use std::collections::TryReserveError;
use std::fmt;
use std::str::FromStr;

/// Positions of a page.
pub const PAGE: usize = 64;
/// Channels that share a scale in [`KvFormat::Q8_0`].
const BLOCK: usize = 32;

/// How keys and values are kept. What attention reads is the value that is kept, so the format shows in every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// As they were computed.
    F32,
    /// Rounded to the nearest f16, ties to even; what is too large is infinite.
    #[default]
    F16,
    /// Codes of eight bits for 32 channels of a head, or as many as are left, coded as activations are, with the scale rounded to f16.
    Q8_0,
}

impl KvFormat {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// `f32`, `f16` or `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| format!("no such cache format: {name}; there are f32, f16, q8_0"))
    }
}

/// What the pages of a model have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How elements are kept.
    pub format: KvFormat,
}

/// Keys and values of [`PAGE`] positions in one layer; all zero at first.
#[derive(Clone)]
pub struct KvPage {
    shape: KvShape,
    keys: Elements,
    values: Elements,
}

#[derive(Clone)]
enum Elements {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// Scales of keys are `[kv_heads, groups, blocks, 16 positions]`, those of values `[kv_heads, positions, blocks]`.
    Q8_0 {
        codes: Vec<i8>,
        scales: Vec<f16>,
    },
}

impl KvPage {
    /// An empty page.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(shape: KvShape) -> Result<Self, TryReserveError> {
        let KvShape { kv_heads, head_dim, format } = shape;
        let scales = kv_heads.saturating_mul(PAGE).saturating_mul(head_dim.div_ceil(BLOCK));
        let elements = |width: usize| Elements::zeros(format, kv_heads.saturating_mul(PAGE).saturating_mul(width), scales);
        Ok(Self { shape, keys: elements(head_dim)?, values: elements(shape.width())? })
    }

    /// Another page like this one.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn try_clone(&self) -> Result<Self, TryReserveError> {
        Ok(Self { shape: self.shape, keys: self.keys.try_clone()?, values: self.values.try_clone()? })
    }

    /// What the page is made for.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.shape.page_bytes()
    }

    /// Keeps keys and values `[kv_heads, head_dim]` of the position `slot` of this page.
    ///
    /// # Panics
    /// If there is no such position, or the lengths differ from the shape's.
    pub fn write(&mut self, slot: usize, k: &[f32], v: &[f32]) {
        let (KvShape { kv_heads, head_dim, .. }, width) = (self.shape, self.shape.width());
        assert!(slot < PAGE && k.len() == kv_heads * head_dim && v.len() == k.len(), "position {slot} of {:?}", self.shape);
        let (group, lane, blocks) = (slot / LANES, slot % LANES, head_dim.div_ceil(BLOCK));
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let groups = head * (PAGE / LANES) + group;
            self.keys.write(k, groups * head_dim * LANES + lane, LANES, groups * blocks * LANES + lane, LANES);
            let row = head * PAGE + slot;
            self.values.write(v, row * width, 1, row * blocks, 1);
        }
    }

    /// The keys of a head, `[groups of 16 positions, head_dim, 16]`; decoded to `room` if need be.
    #[inline(always)]
    pub(crate) fn keys<'a, S: Simd>(&'a self, head: usize, room: &'a mut [f32]) -> &'a [f32] {
        let head_dim = self.shape.head_dim;
        let len = PAGE * head_dim;
        match &self.keys {
            Elements::F32(x) => &x[head * len..][..len],
            Elements::F16(x) => widen::<S>(&x[head * len..][..len], &mut room[..len]),
            Elements::Q8_0 { codes, scales } => {
                let blocks = head_dim.div_ceil(BLOCK);
                let scales = scales[head * PAGE * blocks..][..PAGE * blocks].chunks_exact(blocks * LANES);
                let groups = codes[head * len..][..len].chunks_exact(head_dim * LANES);
                for ((codes, scales), out) in groups.zip(scales).zip(room[..len].chunks_exact_mut(head_dim * LANES)) {
                    let channels = codes.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES));
                    for (channel, (codes, out)) in channels.enumerate() {
                        let scales = &scales[channel / BLOCK * LANES..][..LANES];
                        // SAFETY: sixteen of each.
                        unsafe {
                            S::store(out.as_mut_ptr(), S::mul(codes_lanes::<S>(codes), S::load_f16(scales.as_ptr().cast())))
                        };
                    }
                }
                &room[..len]
            }
        }
    }

    /// The values of a head, `[positions, width]`; decoded to `room` if need be.
    #[inline(always)]
    pub(crate) fn values<'a, S: Simd>(&'a self, head: usize, room: &'a mut [f32]) -> &'a [f32] {
        let width = self.shape.width();
        let len = PAGE * width;
        match &self.values {
            Elements::F32(x) => &x[head * len..][..len],
            Elements::F16(x) => widen::<S>(&x[head * len..][..len], &mut room[..len]),
            Elements::Q8_0 { codes, scales } => {
                let blocks = self.shape.head_dim.div_ceil(BLOCK);
                let scales = scales[head * PAGE * blocks..][..PAGE * blocks].chunks_exact(blocks);
                let rows = codes[head * len..][..len].chunks_exact(width);
                for ((codes, scales), out) in rows.zip(scales).zip(room[..len].chunks_exact_mut(width)) {
                    for (part, (codes, out)) in codes.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)).enumerate() {
                        let scale = S::splat(scales[part * LANES / BLOCK].to_f32());
                        // SAFETY: sixteen of each.
                        unsafe { S::store(out.as_mut_ptr(), S::mul(codes_lanes::<S>(codes), scale)) };
                    }
                }
                &room[..len]
            }
        }
    }
}

impl KvShape {
    /// Bytes of a page.
    pub fn page_bytes(self) -> usize {
        let Self { kv_heads, head_dim, format } = self;
        let bytes = |width: usize| match format {
            KvFormat::F32 => width.saturating_mul(4),
            KvFormat::F16 => width.saturating_mul(2),
            KvFormat::Q8_0 => width.saturating_add(2 * head_dim.div_ceil(BLOCK)),
        };
        bytes(head_dim).saturating_add(bytes(self.width())).saturating_mul(kv_heads).saturating_mul(PAGE)
    }

    /// Elements of a position's values: whole vectors.
    pub(crate) fn width(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }
}

impl Elements {
    fn zeros(format: KvFormat, len: usize, scales: usize) -> Result<Self, TryReserveError> {
        Ok(match format {
            KvFormat::F32 => Self::F32(filled(len, 0.0)?),
            KvFormat::F16 => Self::F16(filled(len, f16::ZERO)?),
            KvFormat::Q8_0 => Self::Q8_0 { codes: filled(len, 0)?, scales: filled(scales, f16::ZERO)? },
        })
    }

    fn try_clone(&self) -> Result<Self, TryReserveError> {
        Ok(match self {
            Self::F32(x) => Self::F32(copied(x)?),
            Self::F16(x) => Self::F16(copied(x)?),
            Self::Q8_0 { codes, scales } => Self::Q8_0 { codes: copied(codes)?, scales: copied(scales)? },
        })
    }

    /// Keeps one head of one position, an element every `step` from `at` on and a scale every `scale_step` from `scale_at` on.
    fn write(&mut self, row: &[f32], at: usize, step: usize, scale_at: usize, scale_step: usize) {
        match self {
            Self::F32(x) => x[at..].iter_mut().step_by(step).zip(row).for_each(|(kept, x)| *kept = *x),
            Self::F16(x) => x[at..].iter_mut().step_by(step).zip(row).for_each(|(kept, x)| *kept = f16::from_f32(*x)),
            Self::Q8_0 { codes, scales } => {
                for (block, row) in row.chunks(BLOCK).enumerate() {
                    let mut coded = [0; BLOCK];
                    scales[scale_at + block * scale_step] = f16::from_f32(quantize_block(row, &mut coded[..row.len()]));
                    let kept = codes[at + block * BLOCK * step..].iter_mut().step_by(step);
                    kept.zip(&coded[..row.len()]).for_each(|(kept, code)| *kept = *code);
                }
            }
        }
    }
}

fn filled<T: Clone>(len: usize, x: T) -> Result<Vec<T>, TryReserveError> {
    let mut room = Vec::new();
    room.try_reserve_exact(len)?;
    room.resize(len, x);
    Ok(room)
}

fn copied<T: Copy>(x: &[T]) -> Result<Vec<T>, TryReserveError> {
    let mut room = Vec::new();
    room.try_reserve_exact(x.len())?;
    room.extend_from_slice(x);
    Ok(room)
}

/// Decodes whole vectors of f16.
#[inline(always)]
fn widen<'a, S: Simd>(x: &[f16], out: &'a mut [f32]) -> &'a [f32] {
    for (x, out) in x.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)) {
        // SAFETY: sixteen of each.
        unsafe { S::store(out.as_mut_ptr(), S::load_f16(x.as_ptr().cast())) };
    }
    out
}

/// Sixteen codes as floats.
#[inline(always)]
fn codes_lanes<S: Simd>(codes: &[i8]) -> S::F {
    let codes = &codes[..LANES];
    // SAFETY: sixteen bytes.
    S::to_f(unsafe { S::load_i8(codes.as_ptr()) })
}
