//! Angles of rotary position embedding (Su et al., arXiv:2104.09864).

use crate::math;

/// Cosines and sines of rotary embedding for positions `0..len`, built under the contract: the angle position · frequency
/// in f64, its cosine and sine rounded to f32.
pub struct RopeTable {
    pairs: usize,
    /// `[positions, 2, pairs]`: cosines, then sines.
    angles: Vec<f32>,
}

impl RopeTable {
    /// `frequencies[i]` radians a position for pair `i`; `frequencies.len() * 2` is the head width.
    pub fn new(frequencies: &[f64], positions: usize) -> Self {
        let mut angles = Vec::with_capacity(positions * 2 * frequencies.len());
        for position in 0..positions {
            let turns = frequencies.iter().map(|f| math::sin_cos(position as f64 * f));
            angles.extend(turns.clone().map(|(_, cos)| cos as f32));
            angles.extend(turns.map(|(sin, _)| sin as f32));
        }
        Self { pairs: frequencies.len(), angles }
    }

    /// Half the head width.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Cosines and sines at a position.
    pub(crate) fn angles(&self, position: u32) -> (&[f32], &[f32]) {
        self.angles[position as usize * 2 * self.pairs..][..2 * self.pairs].split_at(self.pairs)
    }
}
