//! Signatures over models: OpenSSF Model Signing v1.0, files by SHA-256, with keys or certificates.
//!
//! A signature file is a Sigstore bundle v0.3 around a DSSE envelope around an in-toto statement v1 whose predicate lists the
//! model's files with their digests. <https://github.com/ossf/model-signing-spec/blob/main/spec/v1.0.md>

mod bundle;
mod error;
mod ignored;
mod statement;

pub use bundle::{Signature, Signer, Trust};
pub use error::{Differences, SignatureError};
pub use ignored::Ignored;
pub use statement::Statement;

use std::collections::BTreeMap;

/// Largest signature file that is read, in bytes: about a hundred thousand files.
pub const MAX_LEN: u64 = 32 << 20;

/// SHA-256 of each file of a model, by its path in the model, `/` between its parts.
pub type Digests = BTreeMap<String, [u8; 32]>;

/// Proof that somebody trusted signed a statement: only [`Signature::verify`] makes it.
#[derive(Clone, Debug)]
pub struct SignatureChecked {
    statement: Statement,
    signer: String,
}

impl SignatureChecked {
    /// What was signed.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who signed: the key's fingerprint, or the certificate's subject.
    pub fn signer(&self) -> &str {
        &self.signer
    }
}

#[cfg(test)]
mod tests;
