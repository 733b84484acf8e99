//! Keys and values of one sequence.

use crate::{EngineError, error::grow};
use coffer_model::ModelConfig;

/// Positions of the first allocation; later ones double.
const FIRST: usize = 64;

/// Keys and values of one sequence. Memory grows with the sequence, not with the capacity.
pub struct KvCache {
    layers: Vec<LayerCache>,
    shape: CacheShape,
    len: usize,
    capacity: usize,
}

/// What a cache has in common with the model that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Keys and values of one layer, each `[kv_heads, stride, head_dim]`.
#[derive(Default)]
pub(crate) struct LayerCache {
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) stride: usize,
}

impl KvCache {
    pub(crate) fn new(shape: CacheShape, capacity: usize) -> Self {
        let layers = (0..shape.layers).map(|_| LayerCache::default()).collect();
        Self { layers, shape, len: 0, capacity }
    }
    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether nothing was cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| (l.k.len() + l.v.len()) * size_of::<f32>()).sum()
    }
    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }
    pub(crate) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// Makes room for `len` positions in every layer. On error some layers have more room than others, which does no harm.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), EngineError> {
        if len > self.capacity {
            return Err(EngineError::Context { wanted: len, context: self.capacity });
        }
        let filled = self.len;
        self.layers.iter_mut().filter(|l| l.stride < len).try_for_each(|l| {
            let stride = len.max(2 * l.stride).max(FIRST).min(self.capacity);
            l.widen(self.shape, filled, stride)
        })
    }

    /// Writes keys and values `[tokens, kv_heads, head_dim]` to the positions from `at` on; room was reserved.
    pub(crate) fn write(&mut self, layer: usize, at: usize, k: &[f32], v: &[f32]) {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        let LayerCache { k: keys, v: values, stride } = &mut self.layers[layer];
        for (from, to) in [(k, keys), (v, values)] {
            for (t, token) in from.chunks_exact(kv_heads * head_dim).enumerate() {
                for (head, row) in token.chunks_exact(head_dim).enumerate() {
                    let start = (head * *stride + at + t) * head_dim;
                    to[start..start + head_dim].copy_from_slice(row);
                }
            }
        }
    }

    /// Counts `tokens` more positions, written in every layer.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl CacheShape {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim }
    }
}

impl LayerCache {
    /// Moves the first `filled` positions of each head to a buffer with room for `stride`.
    fn widen(&mut self, shape: CacheShape, filled: usize, stride: usize) -> Result<(), EngineError> {
        let head = |stride: usize| stride.saturating_mul(shape.head_dim);
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for wide in [&mut k, &mut v] {
            grow(wide, head(stride).saturating_mul(shape.kv_heads), "keys and values")?;
        }
        for (wide, narrow) in [(&mut k, &self.k), (&mut v, &self.v)] {
            for h in 0..shape.kv_heads {
                let (to, from) = (h * head(stride), h * head(self.stride));
                wide[to..to + head(filled)].copy_from_slice(&narrow[from..from + head(filled)]);
            }
        }
        *self = Self { k, v, stride };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape { layers: 2, kv_heads: 3, head_dim: 4 };

    fn row(position: usize) -> Vec<f32> {
        (0..12).map(|i| (position * 100 + i) as f32).collect()
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let mut cache = KvCache::new(SHAPE, 1000);
        assert_eq!(cache.bytes(), 0);
        for position in 0..300 {
            cache.reserve(position + 1).unwrap();
            (0..2).for_each(|layer| cache.write(layer, position, &row(position), &row(position + 1)));
            cache.advance(1);
        }
        for layer in 0..2 {
            let LayerCache { k, v, stride } = cache.layer(layer);
            assert_eq!(*stride, 512);
            for position in 0..300 {
                for head in 0..3 {
                    let at = (head * stride + position) * 4;
                    assert_eq!(k[at..at + 4], row(position)[head * 4..head * 4 + 4]);
                    assert_eq!(v[at..at + 4], row(position + 1)[head * 4..head * 4 + 4]);
                }
            }
        }
    }

    #[test]
    fn room_ends_at_the_capacity() {
        let mut cache = KvCache::new(SHAPE, 70);
        cache.reserve(65).unwrap();
        assert_eq!(cache.layer(0).stride, 65);
        cache.reserve(70).unwrap();
        assert_eq!(cache.layer(0).stride, 70);
        assert!(matches!(cache.reserve(71), Err(EngineError::Context { wanted: 71, context: 70 })));
    }

    #[test]
    fn an_impossible_cache_is_an_error() {
        let mut cache = KvCache::new(CacheShape { layers: 1, kv_heads: 1 << 20, head_dim: 1 << 20 }, usize::MAX);
        assert!(matches!(cache.reserve(1 << 30), Err(EngineError::Memory { .. })));
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
