//! Certificates of portability: what a model computes, so that another machine can say whether it computes the same.
//! Field by field: docs/spec/certificate.md.

use crate::{LogitsDigest, PartDigest, VariantDigest, WeightsDigest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the format.
const FORMAT: u32 = 1;
/// Longest certificate that is read, in bytes.
pub const MAX_LEN: usize = 64 << 20;
/// Most cases, tokens of a case, and tensors.
const MAX_CASES: usize = 64;
const MAX_TOKENS: usize = 8192;
const MAX_TENSORS: usize = 1 << 20;
/// Bytes of a digest that a trace keeps: enough to find a place, not to prove equality.
const MARK: usize = 4;

/// What a model is, and what it computed for a fixed set of questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Format of this file: 1.
    #[serde(rename = "coffer_certificate")]
    pub format: u32,
    /// Version of the numeric contract.
    pub contract: String,
    /// Format of the KV cache.
    pub kv_format: String,
    /// What was run.
    pub model: Parts,
    /// What came of it.
    pub cases: Vec<Case>,
}

/// The parts of a model, each with its digest, so that a difference can be named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// All parts, contract and KV format together.
    pub variant: VariantDigest,
    /// All tensors.
    pub weights: WeightsDigest,
    /// The shape of the model, as `config.json` spells it.
    pub configuration: serde_json::Value,
    /// `tokenizer.json`; of no bytes if there is none.
    pub tokenizer: PartDigest,
    /// Source of the chat template; of no bytes if there is none.
    pub template: PartDigest,
    /// Bytes of each tensor, by canonical name.
    pub tensors: BTreeMap<String, PartDigest>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Text that the tokens were made from, if they were made from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Token ids that were run.
    pub tokens: Vec<u32>,
    /// Logits of all tokens.
    pub logits: LogitsDigest,
    /// For each token where its numbers passed by.
    pub trace: Vec<Trace>,
    /// Tokens that follow greedily, and those drawn with the suite's temperature and seed.
    pub greedy: Vec<u32>,
    /// Drawn tokens.
    pub drawn: Vec<u32>,
}

/// Marks of one token's numbers on their way, and the logit that won.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Eight hex digits for each stage: the embedding, each layer's output, the logits.
    pub marks: String,
    /// Most likely token.
    pub top: u32,
    /// Its logit, as the hex digits of its bits: exact, whatever reads it.
    pub logit: String,
}

impl Certificate {
    /// A certificate in the current format.
    pub fn new(contract: &str, kv_format: &str, model: Parts, cases: Vec<Case>) -> Self {
        Self { format: FORMAT, contract: contract.into(), kv_format: kv_format.into(), model, cases }
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// Returns [`CertificateError`] if it is no JSON, not of this format, beyond the limits, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self, CertificateError> {
        let refuse = |what: String| Err(CertificateError(what));
        if json.len() > MAX_LEN {
            return refuse(format!("{} bytes are above the limit of {MAX_LEN}", json.len()));
        }
        #[derive(Deserialize)]
        struct Head {
            coffer_certificate: u32,
        }
        match serde_json::from_slice::<Head>(json) {
            Ok(head) if head.coffer_certificate != FORMAT => {
                return refuse(format!("format {}, this program reads {FORMAT}", head.coffer_certificate));
            }
            Ok(_) => (),
            Err(e) => return refuse(format!("no certificate: {e}")),
        }
        let certificate: Self = serde_json::from_slice(json).map_err(|e| CertificateError(e.to_string()))?;
        certificate.check()?;
        Ok(certificate)
    }

    /// As indented JSON.
    pub fn to_json(&self) -> String {
        // Maps with string keys and plain values: nothing in it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn check(&self) -> Result<(), CertificateError> {
        let refuse = |what: String| Err(CertificateError(what));
        if self.cases.is_empty() || self.cases.len() > MAX_CASES {
            return refuse(format!("{} cases; want 1 to {MAX_CASES}", self.cases.len()));
        }
        if self.model.tensors.len() > MAX_TENSORS {
            return refuse(format!("{} tensors; at most {MAX_TENSORS}", self.model.tensors.len()));
        }
        let stages = self.cases[0].trace.first().map_or(0, |t| t.marks.len());
        for case in &self.cases {
            let (name, tokens) = (&case.name, case.tokens.len());
            if tokens == 0 || tokens > MAX_TOKENS || case.greedy.len() > MAX_TOKENS || case.drawn.len() > MAX_TOKENS {
                return refuse(format!("case `{name}`: {tokens} tokens; want 1 to {MAX_TOKENS}"));
            }
            if case.trace.len() != tokens {
                return refuse(format!("case `{name}`: {} traces for {tokens} tokens", case.trace.len()));
            }
            if let Some(at) = case.trace.iter().position(|t| !t.is_sound(stages)) {
                return refuse(format!("case `{name}`: the trace of token {at} is not made of marks and the bits of a logit"));
            }
        }
        Ok(())
    }
}

impl Trace {
    /// The first stage at which two traces differ: 0 the embedding, then the layers, last the logits.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let (ours, theirs) = (self.marks.as_bytes(), other.marks.as_bytes());
        let stages = ours.len().max(theirs.len()) / (2 * MARK);
        let stage = |marks: &[u8], i: usize| marks.get(i * 2 * MARK..(i + 1) * 2 * MARK).map(<[u8]>::to_vec);
        (0..stages).find(|&i| stage(ours, i) != stage(theirs, i))
    }

    /// The winning logit; `None` if its digits are none.
    pub fn value(&self) -> Option<f32> {
        u32::from_str_radix(&self.logit, 16).ok().map(f32::from_bits)
    }

    fn is_sound(&self, len: usize) -> bool {
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let whole = self.marks.len() == len && len > 0 && len.is_multiple_of(2 * MARK);
        whole && hex(&self.marks) && self.logit.len() == 8 && hex(&self.logit)
    }
}

/// Eight hex digits that stand for `values`: the first bytes of the SHA-256 of their bits, little-endian.
pub fn mark(values: &[f32]) -> String {
    hex::encode(&LogitsDigest::of(values).0[..MARK])
}

/// Why a certificate was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(String);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn certificate() -> Certificate {
        let trace = |marks: &str| Trace { marks: marks.into(), top: 3, logit: format!("{:08x}", 1.5f32.to_bits()) };
        let case = Case {
            name: "prose".into(),
            text: None,
            tokens: vec![1, 2],
            logits: LogitsDigest([7; 32]),
            trace: vec![trace("0011223344556677"), trace("8899aabbccddeeff")],
            greedy: vec![4],
            drawn: vec![5],
        };
        let parts = Parts {
            variant: VariantDigest([1; 32]),
            weights: WeightsDigest([2; 32]),
            configuration: json!({"rope_theta": 10000.0}),
            tokenizer: PartDigest([3; 32]),
            template: PartDigest([4; 32]),
            tensors: BTreeMap::from([("model.norm.weight".into(), PartDigest([5; 32]))]),
        };
        Certificate::new("1", "f32", parts, vec![case])
    }

    #[test]
    fn what_is_written_is_read() {
        let certificate = certificate();
        assert_eq!(Certificate::parse(certificate.to_json().as_bytes()).unwrap(), certificate);
        assert_eq!(certificate.cases[0].trace[0].value(), Some(1.5));
    }

    #[test]
    fn malformed_certificates_are_refused() {
        let good: Value = serde_json::from_str(&certificate().to_json()).unwrap();
        let broken = |path: &str, value: Value| {
            let mut json = good.clone();
            *json.pointer_mut(path).unwrap() = value;
            Certificate::parse(json.to_string().as_bytes()).unwrap_err().to_string()
        };
        assert!(broken("/coffer_certificate", json!(2)).contains("format 2"));
        assert!(broken("/cases", json!([])).contains("0 cases"));
        assert!(broken("/cases/0/tokens", json!([])).contains("0 tokens"));
        assert!(broken("/cases/0/tokens", json!([1])).contains("2 traces for 1 tokens"));
        assert!(broken("/cases/0/trace/1/marks", json!("8899")).contains("trace of token 1"));
        assert!(broken("/cases/0/trace/1/marks", json!("8899aabbccddeefg")).contains("trace of token 1"));
        assert!(broken("/cases/0/trace/0/logit", json!("zz")).contains("trace of token 0"));
        assert!(broken("/cases/0/logits", json!("sha256:00")).contains("no digest"));
        assert!(broken("/model/weights", json!(null)).contains("invalid type"));
        for text in ["", "{}", "[]", "{\"coffer_certificate\": 1}", "{\"coffer_certificate\": -1}"] {
            assert!(Certificate::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn traces_say_where_they_part() {
        let trace = |marks: &str| Trace { marks: marks.into(), top: 0, logit: "00000000".into() };
        let first = |a: &str, b: &str| trace(a).first_difference(&trace(b));
        assert_eq!(first("0011223344556677", "0011223344556677"), None);
        assert_eq!(first("0011223344556677", "0011223444556677"), Some(0));
        assert_eq!(first("0011223344556677", "0011223344556678"), Some(1));
        assert_eq!(first("00112233", "0011223344556678"), Some(1));
    }

    /// `hashlib.sha256(struct.pack("<2f", 1.0, -0.0)).hexdigest()[:8]`
    #[test]
    fn marks_are_the_beginning_of_a_digest() {
        assert_eq!(mark(&[1.0, -0.0]), "0cd40d28");
    }
}
