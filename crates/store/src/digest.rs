//! What names a model: its weights, and everything that its answers depend on.

use crate::{Model, StoreError};
use coffer_checkpoint::{TensorId, TensorInfo, TensorSource};
use coffer_evidence::{PartDigest, Variant, VariantDigest, WeightsDigest, WeightsHasher, certificate::Parts};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Bytes read at once.
const CHUNK: u64 = 4 << 20;

impl Model {
    /// Digest over the canonical weights, the same for every container. Reads every byte.
    ///
    /// # Errors
    /// Returns [`StoreError`] if a tensor cannot be read.
    pub fn weights_digest(&self) -> Result<WeightsDigest, StoreError> {
        Ok(self.hash_weights(WeightsHasher::new(), &mut |_, _| ())?.finish()?)
    }

    /// Digests of every part that answers depend on, so that two models can be told apart part by part. Reads every byte
    /// of the weights; `progress` is called with bytes done and bytes in all.
    ///
    /// # Errors
    /// Returns [`StoreError`] if a tensor cannot be read.
    pub fn parts(&self, contract: &str, kv_format: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<Parts, StoreError> {
        let (weights, tensors) = self.weights_digests(progress)?;
        let (config, tokenizer) = (self.config.to_hf(""), self.tokenizer_json());
        Ok(Parts {
            variant: self.variant(weights, &config, &tokenizer, contract, kv_format).digest(),
            weights,
            configuration: serde_json::from_str(&config).unwrap_or_default(),
            tokenizer: PartDigest::of(tokenizer.as_bytes()),
            template: PartDigest::of(self.template_source().as_bytes()),
            tensors,
        })
    }

    /// Digest over all that answers depend on: weights, configuration, tokenizer, chat template, and the versions of the
    /// numeric contract and of the KV cache's format. The configuration is hashed as [`coffer_model::ModelConfig::to_hf`]
    /// writes it, so that the container does not matter.
    pub fn variant_digest(&self, weights: WeightsDigest, contract: &str, kv_format: &str) -> VariantDigest {
        self.variant(weights, &self.config.to_hf(""), &self.tokenizer_json(), contract, kv_format).digest()
    }

    /// Parts that are costly to write out are given.
    fn variant<'a>(
        &'a self,
        weights: WeightsDigest,
        config: &'a str,
        tokenizer: &'a str,
        contract: &'a str,
        kv_format: &'a str,
    ) -> Variant<'a> {
        let (config, tokenizer, template) = (config.as_bytes(), tokenizer.as_bytes(), self.template_source().as_bytes());
        Variant { weights, config, tokenizer, template, contract, kv_format }
    }

    fn tokenizer_json(&self) -> String {
        self.tokenizer.as_ref().map(|t| t.to_hf(None).0).unwrap_or_default()
    }

    fn template_source(&self) -> &str {
        self.template.as_ref().map(|t| t.source()).unwrap_or_default()
    }

    /// Digest over the canonical weights, and of the bytes of each tensor by themselves.
    ///
    /// # Errors
    /// Returns [`StoreError`] if a tensor cannot be read.
    pub fn weights_digests(
        &self,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(WeightsDigest, BTreeMap<String, PartDigest>), StoreError> {
        Ok(self.hash_weights(WeightsHasher::with_tensors(), progress)?.finish_with_tensors()?)
    }

    /// Hashes the tensors in the order of their names.
    fn hash_weights(&self, mut hasher: WeightsHasher, progress: &mut dyn FnMut(u64, u64)) -> Result<WeightsHasher, StoreError> {
        let mut tensors: Vec<_> = self.weights.index().iter().collect();
        tensors.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let mut done = 0;
        for (id, info) in tensors {
            hasher.tensor(&info.name, &info.dtype.name(), &info.shape, info.bytes().unwrap_or(0))?;
            each_chunk(&*self.weights, id, &mut |bytes| {
                done += bytes.len() as u64;
                progress(done, self.weight_bytes);
                Ok(hasher.update(bytes)?)
            })?;
        }
        Ok(hasher)
    }
}

/// Digest of the bytes of one tensor; `progress` is called with the bytes of each piece.
///
/// # Errors
/// Returns [`StoreError`] if it cannot be read.
pub fn of_tensor(source: &dyn TensorSource, id: TensorId, progress: &mut dyn FnMut(u64)) -> Result<PartDigest, StoreError> {
    let mut hasher = Sha256::new();
    each_chunk(source, id, &mut |bytes| {
        hasher.update(bytes);
        progress(bytes.len() as u64);
        Ok(())
    })?;
    Ok(PartDigest(hasher.finalize().into()))
}

/// Calls `take` with the bytes of one tensor, piece by piece.
fn each_chunk(
    source: &dyn TensorSource,
    id: TensorId,
    take: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let info = source.index().get(id);
    let mut bytes = Vec::new();
    for rows in chunks(info) {
        bytes.resize((info.row_bytes().unwrap_or(0) * (rows.end - rows.start)) as usize, 0);
        source.read_rows(id, rows, &mut bytes)?;
        take(&bytes)?;
    }
    Ok(())
}

/// Ranges of whole rows that fit into [`CHUNK`], or single rows.
pub(crate) fn chunks(info: &TensorInfo) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
    let (rows, step) = (info.rows(), (CHUNK / info.row_bytes().unwrap_or(CHUNK).max(1)).max(1));
    (0..rows.div_ceil(step)).map(move |i| i * step..((i + 1) * step).min(rows))
}
