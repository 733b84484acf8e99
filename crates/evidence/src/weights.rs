//! The digest of a model's weights.

use crate::{PartDigest, WeightsDigest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const DOMAIN: &[u8] = b"coffer-weights 1\n";

/// Computes a [`WeightsDigest`] tensor by tensor, the bytes of each in any pieces.
///
/// Tensors come in ascending order of their canonical names, compared as bytes.
pub struct WeightsHasher {
    hasher: Sha256,
    tensor: String,
    missing: u64,
    each: Option<EachTensor>,
}

/// The bytes of each tensor by themselves.
#[derive(Default)]
struct EachTensor {
    current: Sha256,
    whole: BTreeMap<String, PartDigest>,
}

impl WeightsHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self { hasher: Sha256::new_with_prefix(DOMAIN), tensor: String::new(), missing: 0, each: None }
    }

    /// A hasher that digests each tensor's bytes by themselves too.
    pub fn with_tensors() -> Self {
        Self { each: Some(EachTensor::default()), ..Self::new() }
    }

    /// Begins a tensor of `bytes` bytes: canonical name, dtype as the checkpoint crate spells it, shape outermost first.
    pub fn tensor(&mut self, name: &str, dtype: &str, shape: &[u64], bytes: u64) -> Result<(), DigestError> {
        self.end_tensor()?;
        if name <= self.tensor.as_str() {
            return Err(DigestError::Order { before: self.tensor.clone(), name: name.into() });
        }
        for text in [name, dtype] {
            self.hasher.update((text.len() as u64).to_le_bytes());
            self.hasher.update(text);
        }
        self.hasher.update((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|n| self.hasher.update(n.to_le_bytes()));
        self.hasher.update(bytes.to_le_bytes());
        (self.tensor, self.missing) = (name.into(), bytes);
        Ok(())
    }

    /// Adds bytes to the tensor that was begun last.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), DigestError> {
        let name = || self.tensor.clone();
        self.missing = self.missing.checked_sub(bytes.len() as u64).ok_or_else(|| DigestError::TooMany(name()))?;
        self.hasher.update(bytes);
        self.each.iter_mut().for_each(|each| each.current.update(bytes));
        Ok(())
    }

    /// The digest of all tensors.
    pub fn finish(self) -> Result<WeightsDigest, DigestError> {
        self.finish_with_tensors().map(|(all, _)| all)
    }

    /// The digest of all tensors, and that of each one's bytes; none if they were not asked for.
    pub fn finish_with_tensors(mut self) -> Result<(WeightsDigest, BTreeMap<String, PartDigest>), DigestError> {
        self.end_tensor()?;
        Ok((WeightsDigest(self.hasher.finalize().into()), self.each.map(|each| each.whole).unwrap_or_default()))
    }

    fn end_tensor(&mut self) -> Result<(), DigestError> {
        if self.missing > 0 {
            return Err(DigestError::TooFew { name: self.tensor.clone(), missing: self.missing });
        }
        if let Some(each) = self.each.as_mut().filter(|_| !self.tensor.is_empty()) {
            each.whole.insert(self.tensor.clone(), PartDigest(each.current.finalize_reset().into()));
        }
        Ok(())
    }
}

impl Default for WeightsHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Why weights have no digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Names not in ascending order, or one twice.
    #[error("digest of the weights: `{name}` came after `{before}`; tensors must come in ascending order of their names")]
    Order {
        /// The name before.
        before: String,
        /// The name that came.
        name: String,
    },
    /// More bytes than announced.
    #[error("digest of the weights: `{0}` has more bytes than announced")]
    TooMany(String),
    /// Fewer bytes than announced.
    #[error("digest of the weights: `{name}` lacks {missing} bytes")]
    TooFew {
        /// Tensor.
        name: String,
        /// Bytes that did not come.
        missing: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// def tensor(name, dtype, shape, data):
    ///     q = lambda n: struct.pack("<Q", n)
    ///     return q(len(name)) + name + q(len(dtype)) + dtype + q(len(shape)) + b"".join(map(q, shape)) + q(len(data)) + data
    /// hashlib.sha256(b"coffer-weights 1\n" + tensor(b"a", b"F32", [2, 1], bytes(range(8))) + tensor(b"b", b"U8", [], b"\7")).hexdigest()
    /// ```
    #[test]
    fn known_answer() {
        let mut hasher = WeightsHasher::new();
        hasher.tensor("a", "F32", &[2, 1], 8).unwrap();
        hasher.update(&[0, 1, 2]).unwrap();
        hasher.update(&[3, 4, 5, 6, 7]).unwrap();
        hasher.tensor("b", "U8", &[], 1).unwrap();
        hasher.update(&[7]).unwrap();
        assert_eq!(hex::encode(hasher.finish().unwrap().0), "68310eee338ff9e12b5ce015a378332f51383e2655d951448e090ec4a1377c7e");
    }

    #[test]
    fn each_tensor_has_a_digest_of_its_own() {
        let mut hasher = WeightsHasher::with_tensors();
        for (name, bytes) in [("a", &b"12"[..]), ("b", b""), ("c", b"345")] {
            hasher.tensor(name, "U8", &[bytes.len() as u64], bytes.len() as u64).unwrap();
            bytes.chunks(2).for_each(|piece| hasher.update(piece).unwrap());
        }
        let (_, each) = hasher.finish_with_tensors().unwrap();
        let expected = [("a", &b"12"[..]), ("b", b""), ("c", b"345")].map(|(n, b)| (n.to_owned(), PartDigest::of(b)));
        assert_eq!(each, BTreeMap::from(expected));
    }

    #[test]
    fn order_and_lengths_are_kept() {
        let begun = || {
            let mut hasher = WeightsHasher::new();
            hasher.tensor("b", "U8", &[2], 2).unwrap();
            hasher
        };
        let mut hasher = begun();
        assert_eq!(hasher.update(&[1, 2, 3]), Err(DigestError::TooMany("b".into())));
        assert_eq!(begun().tensor("c", "U8", &[1], 1), Err(DigestError::TooFew { name: "b".into(), missing: 2 }));
        assert_eq!(begun().finish().err(), Some(DigestError::TooFew { name: "b".into(), missing: 2 }));
        hasher.update(&[1, 2]).unwrap();
        for name in ["b", "a", ""] {
            assert!(matches!(hasher.tensor(name, "U8", &[1], 1), Err(DigestError::Order { .. })));
        }
        assert!(WeightsHasher::new().update(&[1]).is_err());
    }

    #[test]
    fn name_dtype_and_shape_count() {
        let digest = |name: &str, dtype: &str, shape: &[u64]| {
            let mut hasher = WeightsHasher::new();
            hasher.tensor(name, dtype, shape, 2).unwrap();
            hasher.update(&[1, 2]).unwrap();
            hasher.finish().unwrap()
        };
        let all = [
            digest("a", "F16", &[1]),
            digest("b", "F16", &[1]),
            digest("a", "BF16", &[1]),
            digest("a", "F16", &[1, 1]),
            digest("aF", "16", &[1]),
        ];
        for (i, a) in all.iter().enumerate() {
            all[i + 1..].iter().for_each(|b| assert_ne!(a, b));
        }
    }
}
