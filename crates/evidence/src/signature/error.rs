//! Why a signature or a model was refused.

use super::MAX_LEN;
use coffer_seal::signing::SigningError;
use std::fmt;

/// Why a signature was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// More bytes than any model's signature.
    #[error("signature: {0} bytes are above the limit of {MAX_LEN}")]
    TooLong(u64),
    /// Not a Sigstore bundle, or one with parts that this version does not have.
    #[error("signature: {0}")]
    Bundle(String),
    /// The signed statement is not about a model, or not in a form that is known here.
    #[error("signature: the signed statement: {0}")]
    Statement(String),
    /// Made by `sigstore` with an identity provider.
    #[error("signature: made with a short-lived certificate of Sigstore's; only keys and certificate chains are verified here")]
    Keyless,
    /// The signature is of the other kind.
    #[error("signature: made with {made}; verify it with {remedy}")]
    Kind {
        /// How it was made.
        made: &'static str,
        /// What to verify with.
        remedy: &'static str,
    },
    /// Made by another key, as the signature itself says.
    #[error("signature: made by the key {made}, not by {trusted}")]
    Key {
        /// Fingerprint in the signature.
        made: String,
        /// Fingerprint of the trusted key.
        trusted: String,
    },
    /// The certificate belongs to another key than the one that signs.
    #[error("certificate `{0}` is not for this private key")]
    NotItsCertificate(String),
    /// A key or certificate, or the signature's bytes.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The model is not the one that was signed.
    #[error("the model is not the one that was signed: {0}")]
    Differs(Differences),
}

/// Files that are not as they were signed, each list in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Differences {
    /// There, but with other content.
    pub changed: Vec<String>,
    /// Signed, but not there.
    pub missing: Vec<String>,
    /// There, but not signed.
    pub unsigned: Vec<String>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.missing.is_empty() && self.unsigned.is_empty()
    }
}

/// The first file of each kind, and how many more there are.
impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(&self.changed, "differs"), (&self.missing, "is missing"), (&self.unsigned, "was not signed")];
        let mut separator = "";
        for (files, what) in kinds {
            let Some(first) = files.first() else { continue };
            write!(f, "{separator}`{first}` {what}")?;
            if files.len() > 1 {
                write!(f, " (and {} more)", files.len() - 1)?;
            }
            separator = ", ";
        }
        Ok(())
    }
}
