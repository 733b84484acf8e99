//! Digests that name a model, its weights and its behaviour, and signatures over models. Receipts and certificates come to live here.
//! What is hashed, byte for byte: docs/spec/digests.md.

mod logits;
pub mod signature;
mod variant;
mod weights;

pub use logits::LogitsHasher;
pub use variant::Variant;
pub use weights::{DigestError, WeightsHasher};

/// SHA-256 over the canonical weights: for each tensor in canonical name order its name, dtype, shape and raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightsDigest(pub [u8; 32]);

/// SHA-256 over logits as little-endian f32 bits: equal digests mean equal bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogitsDigest(pub [u8; 32]);

/// Names what answers: weights, configuration, tokenizer, chat template, contract version and KV-cache format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VariantDigest(pub [u8; 32]);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_shown_with_their_algorithm() {
        let digest = WeightsDigest([0xab; 32]);
        let shown = format!("sha256:{}", "ab".repeat(32));
        assert_eq!((digest.to_string(), format!("{digest:?}")), (shown.clone(), shown.clone()));
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{shown}\""));
    }
}
