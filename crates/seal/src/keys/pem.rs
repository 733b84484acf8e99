//! RSA keys in PEM, as key stores and `openssl` write them. age's ssh-rsa stanza is RSA-OAEP-SHA256 and needs nothing of SSH but
//! the key's spelling, so they become ssh-rsa keys, and the `age` command opens what is sealed to them.

use base64::{Engine, prelude::BASE64_STANDARD};
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs1::{DecodeRsaPublicKey, EncodeRsaPrivateKey, LineEnding},
    pkcs8::{DecodePrivateKey, DecodePublicKey},
    traits::PublicKeyParts,
};
use zeroize::Zeroizing;

/// Whether the text begins like a public key in PEM.
pub(super) fn is_public(text: &str) -> bool {
    ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"].iter().any(|begin| text.trim_start().starts_with(begin))
}

/// SPKI (`BEGIN PUBLIC KEY`) or PKCS#1 (`BEGIN RSA PUBLIC KEY`) as `ssh-rsa …`; `None` if it is neither, or no RSA key.
pub(super) fn public_to_ssh(text: &str) -> Option<String> {
    let text = text.trim();
    let key = RsaPublicKey::from_public_key_pem(text).ok().or_else(|| RsaPublicKey::from_pkcs1_pem(text).ok())?;
    let mut wire = Vec::new();
    for part in [b"ssh-rsa".to_vec(), unsigned(&key.e().to_bytes_be()), unsigned(&key.n().to_bytes_be())] {
        wire.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        wire.extend_from_slice(&part);
    }
    Some(format!("ssh-rsa {}", BASE64_STANDARD.encode(wire)))
}

/// PKCS#8 (`BEGIN PRIVATE KEY`) as PKCS#1; `None` if it is something else, or no RSA key.
pub(super) fn private_to_pkcs1(text: &str) -> Option<Zeroizing<String>> {
    RsaPrivateKey::from_pkcs8_pem(text.trim()).ok()?.to_pkcs1_pem(LineEnding::LF).ok()
}

/// SSH's `mpint` of a positive number: a leading zero where the first bit would say that it is negative.
fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { &[0][..] } else { &[] };
    [sign, bytes].concat()
}
