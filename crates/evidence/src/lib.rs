//! Digests that name a model, its weights and its behaviour. Receipts and certificates come to live here.

use sha2::{Digest, Sha256};

/// SHA-256 over the canonical weights: for each tensor in canonical name order its name, dtype, shape and raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightsDigest(pub [u8; 32]);

/// SHA-256 over logits as little-endian f32 bits: equal digests mean equal bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogitsDigest(pub [u8; 32]);

/// Names what answers: weights, configuration, tokenizer, chat template, contract version and KV-cache format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VariantDigest(pub [u8; 32]);

impl LogitsDigest {
    /// Digest of `logits`.
    pub fn of(logits: &[f32]) -> Self {
        let mut h = Sha256::new();
        logits.iter().for_each(|x| h.update(x.to_bits().to_le_bytes()));
        Self(h.finalize().into())
    }
}

macro_rules! hex_display {
    ($($t:ty),*) => {$(
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "sha256:{}", hex::encode(self.0))
            }
        }
        impl std::fmt::Debug for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
        impl serde::Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )*};
}
hex_display!(WeightsDigest, LogitsDigest, VariantDigest);
