//! Key pairs for ECDSA on P-256, P-384 and P-521 (FIPS 186-5), with SHA-256, SHA-384 and SHA-512.

use super::{
    SigningError,
    pem::{self, Block},
};
use crate::keys::write_private;
use aws_lc_rs::{
    digest,
    encoding::AsDer,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm,
        KeyPair, ParsedPublicKey,
    },
};
use std::{fmt, path::Path};

/// Elliptic curve of a signing key; it decides the hash: SHA-256, SHA-384, SHA-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

/// A private key that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    curve: Curve,
}

/// A public key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    /// SubjectPublicKeyInfo in DER, with the curve's name and the uncompressed point.
    spki: Vec<u8>,
    curve: Curve,
}

impl SigningKey {
    /// A new key on P-256.
    ///
    /// # Errors
    /// Returns [`SigningError::Library`] if the library cannot make keys.
    pub fn generate() -> Result<Self, SigningError> {
        let curve = Curve::P256;
        let pair = EcdsaKeyPair::generate(curve.signing()).map_err(|_| SigningError::Library("make a key"))?;
        Ok(Self { pair, curve })
    }

    /// Reads a PEM file with a private key without passphrase: `PRIVATE KEY` (PKCS#8) or `EC PRIVATE KEY` (SEC 1).
    ///
    /// # Errors
    /// Returns [`SigningError`] that names the file and what is there instead.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let blocks = pem::read(path)?;
        let name = || path.display().to_string();
        let Some(key) = blocks.iter().find(|b| matches!(b.label.as_str(), "PRIVATE KEY" | "EC PRIVATE KEY")) else {
            if blocks.iter().any(|b| b.label == "ENCRYPTED PRIVATE KEY") {
                return Err(SigningError::Encrypted(name()));
            }
            return Err(absent(path, "private key", &blocks));
        };
        let parse = |curve: Curve| {
            let pair = EcdsaKeyPair::from_private_key_der(curve.signing(), &key.der).ok()?;
            Some(Self { pair, curve })
        };
        Curve::ALL.into_iter().find_map(parse).ok_or_else(|| SigningError::Unsupported(name()))
    }

    /// Writes it as PKCS#8 in PEM into a file that only its owner may read; an existing file is never overwritten.
    ///
    /// # Errors
    /// Returns [`SigningError`] if the file exists or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), SigningError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| SigningError::Library("encode a key"))?;
        Ok(write_private(path, pem::write("PRIVATE KEY", der.as_ref()).as_bytes())?)
    }

    /// Signature over `message`, in DER.
    ///
    /// # Errors
    /// Returns [`SigningError::Library`] if the library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SigningError::Library("sign"))?;
        Ok(signature.as_ref().to_vec())
    }

    /// Its public half.
    ///
    /// # Errors
    /// Returns [`SigningError::Library`] if the library fails.
    pub fn verifying_key(&self) -> Result<VerifyingKey, SigningError> {
        let spki = self.pair.public_key().as_der().map_err(|_| SigningError::Library("encode a key"))?;
        Ok(VerifyingKey { spki: spki.as_ref().to_vec(), curve: self.curve })
    }
}

/// Names the curve, never the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.curve)
    }
}

impl VerifyingKey {
    /// Reads a PEM file with a `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Returns [`SigningError`] that names the file and what is there instead.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let blocks = pem::read(path)?;
        let key = blocks.iter().find(|b| b.label == "PUBLIC KEY").ok_or_else(|| absent(path, "public key", &blocks))?;
        Self::from_spki(&key.der).ok_or_else(|| SigningError::Unsupported(path.display().to_string()))
    }

    /// Parses a SubjectPublicKeyInfo in DER; `None` if it is none, or on another curve.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        // Beside SubjectPublicKeyInfo, which begins with SEQUENCE, the library would take a bare point.
        let parse = |curve: Curve| {
            let key = ParsedPublicKey::new(curve.verifying(), der).ok()?;
            Some(Self { spki: key.as_der().ok()?.as_ref().to_vec(), curve })
        };
        Curve::ALL.into_iter().filter(|_| der.first() == Some(&0x30)).find_map(parse)
    }

    /// SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` writes it.
    pub fn to_pem(&self) -> String {
        pem::write("PUBLIC KEY", &self.spki).to_string()
    }

    /// SHA-256 of [`Self::to_pem`] in hex: the name that signatures give to a key.
    pub fn fingerprint(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, self.to_pem().as_bytes()))
    }

    /// Its curve.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// Checks a signature in DER over `message`.
    ///
    /// # Errors
    /// Returns [`SigningError::Mismatch`] if this key did not sign this message so.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SigningError> {
        let key =
            ParsedPublicKey::new(self.curve.verifying(), &self.spki).map_err(|_| SigningError::Library("read its own key"))?;
        key.verify_sig(message, signature).map_err(|_| SigningError::Mismatch)
    }
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }

    fn verifying(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
            Self::P521 => &ECDSA_P521_SHA512_ASN1,
        }
    }
}

/// Says what is there instead of what was sought.
pub(super) fn absent(path: &Path, wanted: &'static str, blocks: &[Block]) -> SigningError {
    let labels: Vec<&str> = blocks.iter().map(|b| b.label.as_str()).collect();
    let found = if labels.is_empty() { "; it has no PEM block".to_owned() } else { format!("; it holds {}", labels.join(", ")) };
    SigningError::Absent { path: path.display().to_string(), wanted, found }
}
