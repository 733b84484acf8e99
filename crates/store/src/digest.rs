//! What names a model: its weights, and everything that its answers depend on.

use crate::{Model, StoreError};
use coffer_checkpoint::TensorInfo;
use coffer_evidence::{VariantDigest, WeightsDigest};
use sha2::{Digest, Sha256};

/// Bytes read at once.
const CHUNK: u64 = 4 << 20;

impl Model {
    /// Digest over the canonical weights in the order of their names: for each, length and text of the name and of the
    /// type, number of extents, the extents, the raw bytes; numbers as little-endian u64. Reads every byte.
    ///
    /// # Errors
    /// Returns [`StoreError`] if a tensor cannot be read.
    pub fn weights_digest(&self) -> Result<WeightsDigest, StoreError> {
        let mut tensors: Vec<_> = self.weights.index().iter().collect();
        tensors.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let mut hash = Sha256::new();
        for (id, info) in tensors {
            update(&mut hash, info.name.as_bytes());
            update(&mut hash, info.dtype.name().as_bytes());
            hash.update((info.shape.len() as u64).to_le_bytes());
            info.shape.iter().for_each(|extent| hash.update(extent.to_le_bytes()));
            for rows in chunks(info) {
                let mut bytes = vec![0; (info.row_bytes().unwrap_or(0) * (rows.end - rows.start)) as usize];
                self.weights.read_rows(id, rows, &mut bytes)?;
                hash.update(&bytes);
            }
        }
        Ok(WeightsDigest(hash.finalize().into()))
    }

    /// Digest over all that answers depend on: weights, configuration, tokenizer, chat template, and the versions of the
    /// numeric contract and of the KV cache's format.
    pub fn variant_digest(&self, weights: WeightsDigest, contract: &str, kv_format: &str) -> VariantDigest {
        let mut hash = Sha256::new();
        update(&mut hash, &weights.0);
        update(&mut hash, self.config.to_hf("").as_bytes());
        update(&mut hash, self.tokenizer.as_ref().map(|t| t.to_hf(None).0).unwrap_or_default().as_bytes());
        update(&mut hash, self.template.as_ref().map(|t| t.source()).unwrap_or_default().as_bytes());
        update(&mut hash, contract.as_bytes());
        update(&mut hash, kv_format.as_bytes());
        VariantDigest(hash.finalize().into())
    }
}

/// Ranges of whole rows that fit into [`CHUNK`], or single rows.
pub(crate) fn chunks(info: &TensorInfo) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
    let (rows, step) = (info.rows(), (CHUNK / info.row_bytes().unwrap_or(CHUNK).max(1)).max(1));
    (0..rows.div_ceil(step)).map(move |i| i * step..((i + 1) * step).min(rows))
}

fn update(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}
