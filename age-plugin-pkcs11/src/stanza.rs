//! The stanza `p256tag` (C2SP age.md, tagged recipients): a file key, sealed with HPKE to a P-256 key, and a tag by which the
//! key's owner knows it as his without asking the token.

use crate::hpke::{self, POINT_LEN, TAG_LEN};
use age_core::{
    format::{FILE_KEY_BYTES, FileKey, Stanza},
    secrecy::zeroize::Zeroize,
};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use hkdf::HkdfExtract;
use p256::{PublicKey, elliptic_curve::sec1::ToEncodedPoint};
use sha2::{Digest, Sha256};

/// First word of the stanza.
pub const NAME: &str = "p256tag";
const INFO: &[u8] = b"age-encryption.org/p256tag";
const BODY_LEN: usize = FILE_KEY_BYTES + TAG_LEN;

/// A well-formed stanza; its point lies on the curve.
#[derive(Debug)]
pub struct Tagged {
    tag: [u8; 4],
    enc: [u8; POINT_LEN],
    body: [u8; BODY_LEN],
}

/// What is wrong with a stanza.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StanzaError {
    /// Not two arguments.
    #[error("{NAME}: {0} arguments where there are two")]
    Arguments(usize),
    /// The first argument.
    #[error("{NAME}: the tag is not 4 bytes in base64")]
    Tag,
    /// The second argument.
    #[error("{NAME}: the encapsulated key is not 65 bytes in base64")]
    Length,
    /// Not a point: the token is not asked to multiply it.
    #[error("{NAME}: the encapsulated key is no point of P-256")]
    Point,
    /// The body.
    #[error("{NAME}: the body has {0} bytes, not {BODY_LEN}")]
    Body(usize),
}

impl Tagged {
    /// `None` for any other kind of stanza.
    pub fn parse(stanza: &Stanza) -> Option<Result<Self, StanzaError>> {
        (stanza.tag == NAME).then(|| Self::parse_known(stanza))
    }

    fn parse_known(stanza: &Stanza) -> Result<Self, StanzaError> {
        let [tag, enc] = &stanza.args[..] else { return Err(StanzaError::Arguments(stanza.args.len())) };
        let tag = argument(tag).ok_or(StanzaError::Tag)?;
        let enc: [u8; POINT_LEN] = argument(enc).ok_or(StanzaError::Length)?;
        PublicKey::from_sec1_bytes(&enc).map_err(|_| StanzaError::Point)?;
        let body = stanza.body[..].try_into().map_err(|_| StanzaError::Body(stanza.body.len()))?;
        Ok(Self { tag, enc, body })
    }

    /// Whether it is for `key` (or, once in 2^32, looks so).
    pub fn is_for(&self, key: &PublicKey) -> bool {
        let mut extract = HkdfExtract::<Sha256>::new(Some(INFO));
        extract.input_ikm(&self.enc);
        extract.input_ikm(&Sha256::digest(key.to_encoded_point(true))[..4]);
        extract.finalize().0[..4] == self.tag
    }

    /// The sender's one-time public key, uncompressed.
    pub fn point(&self) -> &[u8; POINT_LEN] {
        &self.enc
    }

    /// The file key; `dh` is the x-coordinate of the private key times [`Self::point`]. `None`: another key, or changed.
    pub fn open(&self, key: &PublicKey, dh: &[u8; 32]) -> Option<FileKey> {
        let public: [u8; POINT_LEN] = key.to_encoded_point(false).as_bytes().try_into().ok()?;
        let mut plain = hpke::open(dh, &self.enc, &public, INFO, &self.body)?;
        let file_key = FileKey::init_with_mut(|out| out.copy_from_slice(&plain));
        plain.zeroize();
        Some(file_key)
    }
}

/// Canonical base64 of exactly `N` bytes.
fn argument<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Four characters a three bytes: nothing longer is decoded.
    (text.len() <= N * 4 / 3 + 2).then(|| BASE64_STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests;
