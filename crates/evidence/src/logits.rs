//! The digest of logits.

use crate::LogitsDigest;
use sha2::{Digest, Sha256};

/// Computes a [`LogitsDigest`] from logits as they come, in any pieces.
#[derive(Clone, Default)]
pub struct LogitsHasher(Sha256);

impl LogitsHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `logits` in their order.
    pub fn update(&mut self, logits: &[f32]) {
        let mut bytes = [0; 1024];
        for piece in logits.chunks(bytes.len() / 4) {
            let filled = &mut bytes[..piece.len() * 4];
            filled.chunks_exact_mut(4).zip(piece).for_each(|(out, x)| out.copy_from_slice(&x.to_bits().to_le_bytes()));
            self.0.update(filled);
        }
    }

    /// The digest of all that was added.
    pub fn finish(self) -> LogitsDigest {
        LogitsDigest(self.0.finalize().into())
    }
}

impl LogitsDigest {
    /// Digest of `logits`.
    pub fn of(logits: &[f32]) -> Self {
        let mut hasher = LogitsHasher::new();
        hasher.update(logits);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hashlib.sha256(struct.pack("<4f", 1.0, -0.0, float("inf"), 1.5)).hexdigest()`
    #[test]
    fn known_answer() {
        assert_eq!(
            hex::encode(LogitsDigest::of(&[1.0, -0.0, f32::INFINITY, 1.5]).0),
            "1810343b44cbae9efd2bc3261101c090e54add51e34674f3efb226a286524d0b"
        );
        assert_ne!(LogitsDigest::of(&[0.0]), LogitsDigest::of(&[-0.0]));
    }

    #[test]
    fn pieces_do_not_matter() {
        let logits: Vec<f32> = (0..1000).map(|i| i as f32 * 0.37 - 90.0).collect();
        for size in [1, 7, 255, 256, 257, 1000] {
            let mut hasher = LogitsHasher::new();
            logits.chunks(size).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), LogitsDigest::of(&logits));
        }
    }
}
