//! Digests that name a model, its weights and its behaviour, certificates of how it behaves, receipts of how it was made, and signatures.
//! What is hashed, byte for byte: docs/spec/digests.md; what a certificate holds: docs/spec/certificate.md.

pub mod certificate;
pub mod receipt;
pub mod signature;

mod logits;
mod variant;
mod weights;

pub use certificate::Certificate;
pub use logits::LogitsHasher;
pub use receipt::{Receipt, Recipe};
pub use variant::Variant;
pub use weights::{DigestError, WeightsHasher};

use sha2::{Digest, Sha256};

/// SHA-256 over the canonical weights: for each tensor in canonical name order its name, dtype, shape and raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightsDigest(pub [u8; 32]);

/// SHA-256 over a part of a model: a tensor's bytes, a tokenizer, a chat template.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartDigest(pub [u8; 32]);

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
        impl<'de> serde::Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(d)?;
                let mut bytes = [0; 32];
                match text.strip_prefix("sha256:").map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
                    Some(Ok(())) => Ok(Self(bytes)),
                    _ => Err(serde::de::Error::custom(format_args!("`{text:.80}` is no digest: expected `sha256:` and 64 hex digits"))),
                }
            }
        }
    )*};
}
hex_display!(WeightsDigest, PartDigest, LogitsDigest, VariantDigest);

impl PartDigest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_shown_with_their_algorithm() {
        let digest = WeightsDigest([0xab; 32]);
        let shown = format!("sha256:{}", "ab".repeat(32));
        assert_eq!((digest.to_string(), format!("{digest:?}")), (shown.clone(), shown.clone()));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{shown}\""));
        assert_eq!(serde_json::from_str::<WeightsDigest>(&json).unwrap(), digest);
        for bad in ["\"sha256:ab\"", "\"\"", "\"sha512:00\"", "7"] {
            assert!(serde_json::from_str::<WeightsDigest>(bad).is_err(), "{bad}");
        }
    }
}
