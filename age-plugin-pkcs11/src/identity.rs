//! `AGE-PLUGIN-PKCS11-1…`: which key on which token, and its public half. Holds no secret.

use crate::uri::{Uri, UriError};
use age_core::primitives::{bech32_decode, bech32_encode};
use bech32::Hrp;
use p256::{PublicKey, elliptic_curve::sec1::ToEncodedPoint};

/// The plugin's name in identities.
pub const PLUGIN_NAME: &str = "pkcs11";

/// First byte of an identity: a P-256 key.
const P256: u8 = 1;
const COMPRESSED_LEN: usize = 33;
const PREFIX: &str = "age-plugin-pkcs11-";

/// A key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its public half, by which stanzas are recognized without asking the token.
    pub key: PublicKey,
    /// Where it is.
    pub uri: Uri,
}

/// Why an identity was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not the text of one.
    #[error("no AGE-PLUGIN-PKCS11-1… in Bech32")]
    Text,
    /// Made by a later version.
    #[error("an identity of a kind ({0}) that this version does not know")]
    Kind(u8),
    /// Cut short, or not a key.
    #[error("it does not begin with a P-256 public key")]
    Key,
    /// The rest.
    #[error(transparent)]
    Uri(#[from] UriError),
}

impl Identity {
    /// Parses `AGE-PLUGIN-PKCS11-1…`.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let right = |hrp: Hrp| hrp.as_str().eq_ignore_ascii_case(PREFIX).then_some(()).ok_or(IdentityError::Text);
        let bytes = bech32_decode(text, |_| IdentityError::Text, right, |_, bytes| Ok(bytes.collect::<Vec<u8>>()))?;
        Self::from_bytes(&bytes)
    }

    /// Parses the bytes that the text stands for: kind, compressed point, URI.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let (&kind, rest) = bytes.split_first().ok_or(IdentityError::Key)?;
        if kind != P256 {
            return Err(IdentityError::Kind(kind));
        }
        let (key, uri) = rest.split_at_checked(COMPRESSED_LEN).ok_or(IdentityError::Key)?;
        let key = PublicKey::from_sec1_bytes(key).map_err(|_| IdentityError::Key)?;
        let uri = std::str::from_utf8(uri).map_err(|_| UriError::Scheme)?;
        Ok(Self { key, uri: Uri::parse(uri)? })
    }

    /// `age1tag1…`: what others encrypt to.
    pub fn recipient(&self) -> String {
        bech32_encode(Hrp::parse_unchecked("age1tag"), self.key.to_encoded_point(true).as_bytes())
    }
}

/// A line of an identity file.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = vec![P256];
        bytes.extend_from_slice(self.key.to_encoded_point(true).as_bytes());
        bytes.extend_from_slice(self.uri.to_string().as_bytes());
        f.write_str(&bech32_encode(Hrp::parse_unchecked(PREFIX), &bytes).to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        let key = p256::SecretKey::from_slice(&[1; 32]).unwrap().public_key();
        Identity { key, uri: Uri::parse("pkcs11:token=a%20b;id=%01?module-path=/usr/lib/m.so&pin-source=/run/pin").unwrap() }
    }

    #[test]
    fn what_is_written_is_read() {
        let (identity, text) = (identity(), identity().to_string());
        assert!(text.starts_with("AGE-PLUGIN-PKCS11-1"), "{text}");
        assert_eq!(Identity::parse(&text).unwrap(), identity);
        let recipient: age::tag::Recipient = identity.recipient().parse().unwrap();
        assert_eq!(recipient.to_string(), identity.recipient());
        assert!(text.parse::<age::plugin::Identity>().is_ok());
    }

    #[test]
    fn bad_identities() {
        let encode =
            |bytes: &[u8]| Identity::parse(&bech32_encode(Hrp::parse_unchecked(PREFIX), bytes).to_uppercase()).unwrap_err();
        let mut whole = vec![P256];
        whole.extend_from_slice(identity().key.to_encoded_point(true).as_bytes());
        let with = |uri: &str| [&whole[..], uri.as_bytes()].concat();
        assert!(matches!(Identity::parse(""), Err(IdentityError::Text)));
        assert!(matches!(Identity::parse("AGE-PLUGIN-YUBIKEY-1"), Err(IdentityError::Text)));
        assert!(matches!(Identity::parse(&identity().to_string()[1..]), Err(IdentityError::Text)));
        assert!(matches!(encode(b""), IdentityError::Key));
        assert!(matches!(encode(&[9; 50]), IdentityError::Kind(9)));
        assert!(matches!(encode(&whole[..33]), IdentityError::Key));
        assert!(matches!(encode(&[P256; 60]), IdentityError::Key));
        assert!(matches!(encode(&with("")), IdentityError::Uri(UriError::Scheme)));
        assert!(matches!(encode(&[&whole[..], b"\xff"].concat()), IdentityError::Uri(UriError::Scheme)));
        assert!(matches!(encode(&with("pkcs11:token=a")), IdentityError::Uri(UriError::NoModule)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(kind) = bytes.first_mut() {
                *kind = P256;
            }
            let _ = Identity::from_bytes(&bytes);
        }
    }
}
