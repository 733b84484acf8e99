//! Signing primitives: ECDSA on the NIST curves with keys from PEM files, and certificates that vouch for such keys.

mod certificate;
mod key;
mod pem;

pub use certificate::{Certificate, verify_chain};
pub use key::{Curve, SigningKey, VerifyingKey};

use crate::keys::KeyError;

/// Why a key or certificate was refused, or a signature is not right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] KeyError),
    /// Damaged PEM.
    #[error("{path}: line {line}: {reason}")]
    Pem {
        /// File.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// None of the PEM blocks is what was sought.
    #[error("{path}: no {wanted} in it{found}")]
    Absent {
        /// File.
        path: String,
        /// What was sought.
        wanted: &'static str,
        /// What is there instead, as the end of a sentence.
        found: String,
    },
    /// The private key is protected by a passphrase.
    #[error("{0}: the key is protected by a passphrase; make a copy without one with `openssl pkey`")]
    Encrypted(String),
    /// Not a key on P-256, P-384 or P-521.
    #[error("{0}: no ECDSA key on P-256, P-384 or P-521; other kinds cannot sign models")]
    Unsupported(String),
    /// A certificate cannot be parsed.
    #[error("{name}: {reason}")]
    Certificate {
        /// File, or which certificate it is.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The chain does not lead to a trusted certificate.
    #[error("certificate `{subject}`: {reason}")]
    Chain {
        /// Subject of the certificate where the chain ends.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// The signature was not made with this key over these bytes.
    #[error("the signature was not made with this key over this content")]
    Mismatch,
    /// The cryptographic library failed.
    #[error("the cryptographic library cannot {0}")]
    Library(&'static str),
}

#[cfg(test)]
mod tests;
