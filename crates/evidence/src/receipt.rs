//! Receipts: how a model was made, so that anyone can make it again and compare. Field by field: docs/spec/receipt.md.

use crate::{PartDigest, WeightsDigest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the format.
const FORMAT: u32 = 1;
/// Longest receipt that is read, in bytes.
pub const MAX_LEN: usize = 1 << 20;

/// How one model was made out of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format of this file: 1.
    #[serde(rename = "coffer_receipt")]
    pub format: u32,
    /// Version of the numeric contract.
    pub contract: String,
    /// Method and its version, e.g. `gptq@1`.
    pub method: String,
    /// What was asked of it.
    pub parameters: Parameters,
    /// Weights that it was made of.
    pub source: WeightsDigest,
    /// What showed the method which weights count, if anything did.
    pub learned: Option<Learned>,
    /// Weights that came out.
    pub result: WeightsDigest,
    /// What was measured on the result, for readers; nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<serde_json::Value>,
}

/// How a model is made: what its receipt says before there is a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of the numeric contract.
    pub contract: String,
    /// Method and its version, e.g. `gptq@1`.
    pub method: String,
    /// What is asked of it.
    pub parameters: Parameters,
    /// What shows the method which weights count, if anything does.
    pub learned: Option<Learned>,
}

/// Parameters of quantization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Type of most tensors, e.g. `Q4_K_M`.
    #[serde(rename = "type")]
    pub scheme: String,
    /// Types of tensors that differ from what that gives them, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, String>,
    /// Whether a quantized source was accepted.
    pub requantize: bool,
}

/// A file that a method learned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "from", rename_all = "lowercase")]
pub enum Learned {
    /// A text that was run through the source.
    Text {
        /// Name of the file.
        name: String,
        /// Of its whole content.
        digest: PartDigest,
        /// Bytes from its beginning that were learned from.
        bytes: u64,
        /// Tokens of a window.
        window: usize,
        /// Most tokens.
        max_tokens: usize,
    },
    /// An importance matrix.
    Imatrix {
        /// Name of the file.
        name: String,
        /// Of its content.
        digest: PartDigest,
    },
}

impl Receipt {
    /// A receipt in the current format.
    pub fn new(recipe: Recipe, source: WeightsDigest, result: WeightsDigest) -> Self {
        let Recipe { contract, method, parameters, learned } = recipe;
        Self { format: FORMAT, contract, method, parameters, source, learned, result, lost: None }
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// Returns [`ReceiptError`] if it is no JSON, not of this format, or beyond the limit.
    pub fn parse(json: &[u8]) -> Result<Self, ReceiptError> {
        #[derive(Deserialize)]
        struct Head {
            coffer_receipt: u32,
        }
        if json.len() > MAX_LEN {
            return Err(ReceiptError(format!("{} bytes are above the limit of {MAX_LEN}", json.len())));
        }
        match serde_json::from_slice::<Head>(json) {
            Ok(head) if head.coffer_receipt != FORMAT => {
                Err(ReceiptError(format!("format {}, this program reads {FORMAT}", head.coffer_receipt)))
            }
            Ok(_) => serde_json::from_slice(json).map_err(|e| ReceiptError(e.to_string())),
            Err(e) => Err(ReceiptError(format!("no receipt: {e}"))),
        }
    }

    /// As indented JSON.
    pub fn to_json(&self) -> String {
        // Maps with string keys and plain values: nothing in it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl Learned {
    /// Digest of the file.
    pub fn digest(&self) -> PartDigest {
        match self {
            Self::Text { digest, .. } | Self::Imatrix { digest, .. } => *digest,
        }
    }
}

/// Why a receipt was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("receipt: {0}")]
pub struct ReceiptError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let learned =
            Learned::Text { name: "a.txt".into(), digest: PartDigest([3; 32]), bytes: 700, window: 512, max_tokens: 1000 };
        let parameters =
            Parameters { scheme: "Q4_K_M".into(), types: BTreeMap::from([("a".into(), "Q8_0".into())]), requantize: false };
        let recipe = Recipe { contract: "1".into(), method: "gptq@1".into(), parameters, learned: Some(learned) };
        Receipt::new(recipe, WeightsDigest([1; 32]), WeightsDigest([2; 32]))
    }

    #[test]
    fn what_is_written_is_read() {
        let imatrix = Learned::Imatrix { name: "i".into(), digest: PartDigest([4; 32]) };
        for learned in [receipt().learned, Some(imatrix), None] {
            let lost = Some(serde_json::json!({ "kl_mean": 0.01 }));
            let receipt = Receipt { learned, lost, ..receipt() };
            assert_eq!(Receipt::parse(receipt.to_json().as_bytes()), Ok(receipt));
        }
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        let refused = |json: &str| Receipt::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(refused("{}").contains("no receipt"));
        assert!(refused("[").contains("no receipt"));
        let json = receipt().to_json();
        assert!(refused(&json.replace("\"coffer_receipt\": 1", "\"coffer_receipt\": 2")).contains("format 2"));
        assert!(refused(&json.replace("\"method\"", "\"methode\"")).contains("methode"));
        assert!(refused(&json.replace("sha256:0101", "sha256:01")).contains("no digest"));
        assert!(refused(&" ".repeat(MAX_LEN + 1)).contains("above the limit"));
    }
}
