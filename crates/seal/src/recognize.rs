//! Recognizing bytes that this process has read before, without keeping them.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Tags bytes with 16 bytes under a key that never leaves the process: GMAC, which is AES-256-GCM over associated data alone
/// (NIST SP 800-38D), several times as fast as a hash. The place of the bytes is the nonce. Tags are never shown to anybody, so
/// that computing one again for other bytes at the same place tells nobody anything.
pub struct Recognizer(LessSafeKey);

/// What is kept of bytes.
#[derive(Clone, Copy)]
pub struct Tag([u8; 16]);

/// Where bytes lie: number of the file, number of the block in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// File.
    pub file: u32,
    /// Block.
    pub block: u64,
}

impl Recognizer {
    /// A recognizer with a new key.
    ///
    /// # Errors
    /// Fails if the system gives no random bytes.
    pub fn new() -> Result<Self, RecognizeError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).map_err(|_| RecognizeError)?;
        Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref())?)))
    }

    /// The tag of `bytes` at `place`.
    ///
    /// # Errors
    /// Fails if the cryptographic library does.
    pub fn tag(&self, place: Place, bytes: &[u8]) -> Result<Tag, RecognizeError> {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&place.file.to_le_bytes());
        nonce[4..].copy_from_slice(&place.block.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut [])?;
        let mut out = [0; 16];
        out.copy_from_slice(tag.as_ref().get(..16).ok_or(RecognizeError)?);
        Ok(Tag(out))
    }

    /// Whether `bytes` are those that got `tag` at `place`.
    ///
    /// # Errors
    /// Fails if the cryptographic library does.
    pub fn knows(&self, place: Place, bytes: &[u8], tag: &Tag) -> Result<bool, RecognizeError> {
        Ok(self.tag(place, bytes)?.0.ct_eq(&tag.0).into())
    }
}

/// The cryptographic library or the system's source of random bytes failed.
#[derive(Debug, thiserror::Error)]
#[error("the cryptographic library cannot compute a tag")]
pub struct RecognizeError;

impl From<Unspecified> for RecognizeError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_at_the_same_place_and_no_others() {
        let recognizer = Recognizer::new().unwrap();
        let place = Place { file: 1, block: 2 };
        let bytes: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let tag = recognizer.tag(place, &bytes).unwrap();
        assert!(recognizer.knows(place, &bytes, &tag).unwrap());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!recognizer.knows(place, &changed, &tag).unwrap(), "byte {at}");
        }
        assert!(!recognizer.knows(place, &bytes[..999], &tag).unwrap());
        assert!(!recognizer.knows(Place { file: 2, block: 2 }, &bytes, &tag).unwrap());
        assert!(!recognizer.knows(Place { file: 1, block: 3 }, &bytes, &tag).unwrap());
        assert!(!Recognizer::new().unwrap().knows(place, &bytes, &tag).unwrap());
    }
}
