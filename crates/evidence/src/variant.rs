//! The digest that names a variant of a model.

use crate::{VariantDigest, WeightsDigest};
use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"coffer-variant 1\n";

/// All that decides what a model answers to a given request.
#[derive(Clone, Copy)]
pub struct Variant<'a> {
    /// The canonical weights.
    pub weights: WeightsDigest,
    /// The configuration as stored: `config.json`, or GGUF's fields in the form that the store gives.
    pub config: &'a [u8],
    /// The tokenizer as stored; empty if there is none.
    pub tokenizer: &'a [u8],
    /// The chat template's source; empty if there is none.
    pub template: &'a [u8],
    /// Version of the numeric contract.
    pub contract: &'a str,
    /// Format of the KV cache.
    pub kv_format: &'a str,
}

impl Variant<'_> {
    /// Names the variant: equal digests mean equal parts.
    pub fn digest(&self) -> VariantDigest {
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        let parts =
            [&self.weights.0, self.config, self.tokenizer, self.template, self.contract.as_bytes(), self.kv_format.as_bytes()];
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        VariantDigest(hasher.finalize().into())
    }
}

impl VariantDigest {
    /// What Coffer's server gives as `system_fingerprint`: `fp_` and 16 hex digits.
    pub fn fingerprint(&self) -> String {
        format!("fp_{}", hex::encode(&self.0[..8]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIANT: Variant<'_> = Variant {
        weights: WeightsDigest([1; 32]),
        config: b"{}",
        tokenizer: b"tok",
        template: b"",
        contract: "1",
        kv_format: "f32",
    };

    /// ```python
    /// parts = [b"\1" * 32, b"{}", b"tok", b"", b"1", b"f32"]
    /// hashlib.sha256(b"coffer-variant 1\n" + b"".join(struct.pack("<Q", len(p)) + p for p in parts)).hexdigest()
    /// ```
    #[test]
    fn known_answer() {
        assert_eq!(hex::encode(VARIANT.digest().0), "f82190b83e0c4be7ab94a956ce049009618f0303b156f2d9026b191cc438d7b3");
    }

    #[test]
    fn parts_cannot_run_into_one_another() {
        let moved = Variant { config: b"{}t", tokenizer: b"ok", ..VARIANT };
        let exchanged = Variant { tokenizer: b"", template: b"tok", ..VARIANT };
        let other_kv = Variant { kv_format: "f16", ..VARIANT };
        for other in [moved, exchanged, other_kv] {
            assert_ne!(other.digest(), VARIANT.digest());
        }
    }
}
