//! Keys and values of one sequence.

use crate::EngineError;
use coffer_kernels::{KvFormat, KvPage, KvShape, kv::PAGE};
use coffer_model::ModelConfig;
use std::{collections::TryReserveError, sync::Arc};

/// Keys and values of one sequence, in pages. Memory grows with the sequence, not with the capacity, and caches that begin alike can
/// share their pages.
pub struct KvCache {
    /// Pages of each layer.
    layers: Vec<Vec<Arc<KvPage>>>,
    shape: KvShape,
    len: usize,
    capacity: usize,
}

impl KvCache {
    pub(crate) fn new(layers: usize, shape: KvShape, capacity: usize) -> Self {
        Self { layers: vec![Vec::new(); layers], shape, len: 0, capacity }
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
    /// A cache of the first `len` positions, or of all if there are fewer, with room for `capacity`. Both share the pages; one that either
    /// writes to is copied first.
    pub fn prefix(&self, len: usize, capacity: usize) -> Self {
        let len = len.min(self.len).min(capacity);
        let layers = self.layers.iter().map(|pages| pages[..len.div_ceil(PAGE)].to_vec()).collect();
        Self { layers, shape: self.shape, len, capacity }
    }
    /// Bytes in memory, shared pages too.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(|page| page.bytes()).sum()
    }
    /// Whether this engine can fill it.
    pub(crate) fn fits(&self, config: &ModelConfig, format: KvFormat) -> bool {
        self.layers.len() == config.layers && self.shape == shape(config, format)
    }
    pub(crate) fn pages(&self, layer: usize) -> &[Arc<KvPage>] {
        &self.layers[layer]
    }

    /// Makes room for `len` positions in every layer, in pages that no other cache has. On error some layers have more room than others,
    /// which does no harm.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), EngineError> {
        if len > self.capacity {
            return Err(EngineError::Context { wanted: len, context: self.capacity });
        }
        let (shape, first, pages) = (self.shape, self.len / PAGE, len.div_ceil(PAGE));
        let bytes = shape.page_bytes().saturating_mul(self.layers.len()).saturating_mul(pages);
        let memory = |_: TryReserveError| EngineError::Memory { what: "keys and values", bytes };
        for layer in &mut self.layers {
            for page in layer.iter_mut().take(pages).skip(first) {
                if Arc::get_mut(page).is_none() {
                    *page = Arc::new(page.try_clone().map_err(memory)?);
                }
            }
            while layer.len() < pages {
                layer.try_reserve(1).map_err(memory)?;
                layer.push(Arc::new(KvPage::new(shape).map_err(memory)?));
            }
        }
        Ok(())
    }

    /// Writes keys and values `[tokens, kv_heads, head_dim]` to the positions from `at` on; room was reserved.
    pub(crate) fn write(&mut self, layer: usize, at: usize, k: &[f32], v: &[f32]) {
        let width = self.shape.kv_heads * self.shape.head_dim;
        let pages = &mut self.layers[layer];
        for (position, (k, v)) in (at..).zip(k.chunks_exact(width).zip(v.chunks_exact(width))) {
            // `reserve` has made the page this cache's own, so that nothing is copied here.
            Arc::make_mut(&mut pages[position / PAGE]).write(position % PAGE, k, v);
        }
    }

    /// Counts `tokens` more positions, written in every layer.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// What the pages of a model have in common.
pub(crate) fn shape(config: &ModelConfig, format: KvFormat) -> KvShape {
    KvShape { kv_heads: config.kv_heads, head_dim: config.head_dim, format }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { kv_heads: 3, head_dim: 4, format: KvFormat::F16 };

    fn fill(cache: &mut KvCache, len: usize) {
        for position in cache.len()..len {
            cache.reserve(position + 1).unwrap();
            let row = |x: usize| [x as f32; 12];
            (0..2).for_each(|layer| cache.write(layer, position, &row(position), &row(position + 1)));
            cache.advance(1);
        }
    }

    #[test]
    fn memory_follows_the_sequence() {
        let mut cache = KvCache::new(2, SHAPE, 1000);
        assert_eq!(cache.bytes(), 0);
        for (len, pages) in [(1, 1), (64, 1), (65, 2), (300, 5)] {
            fill(&mut cache, len);
            assert_eq!((cache.len(), cache.bytes()), (len, pages * 2 * SHAPE.page_bytes()));
        }
    }

    #[test]
    fn what_is_shared_is_copied_before_it_is_written_to() {
        let mut cache = KvCache::new(2, SHAPE, 1000);
        fill(&mut cache, 150);
        let mut other = cache.prefix(100, 400);
        assert_eq!((other.len(), other.capacity()), (100, 400));
        let shared =
            |a: &KvCache, b: &KvCache| (0..2).map(|page| Arc::ptr_eq(&a.layers[1][page], &b.layers[1][page])).collect::<Vec<_>>();
        assert_eq!(shared(&cache, &other), [true, true]);
        fill(&mut other, 101);
        assert_eq!(shared(&cache, &other), [true, false]);
        cache.truncate(10);
        fill(&mut cache, 11);
        assert_eq!(shared(&cache, &other), [false, false]);
        assert_eq!(cache.prefix(500, 5).len(), 5);
    }

    #[test]
    fn room_ends_at_the_capacity() {
        let mut cache = KvCache::new(2, SHAPE, 70);
        cache.reserve(70).unwrap();
        assert!(matches!(cache.reserve(71), Err(EngineError::Context { wanted: 71, context: 70 })));
    }

    #[test]
    fn an_impossible_cache_is_an_error() {
        for format in KvFormat::ALL {
            let shape = KvShape { kv_heads: 1 << 30, head_dim: 1 << 30, format };
            let mut cache = KvCache::new(1, shape, usize::MAX);
            assert!(matches!(cache.reserve(1), Err(EngineError::Memory { .. })));
            assert_eq!((cache.len(), cache.bytes()), (0, 0));
        }
    }
}
