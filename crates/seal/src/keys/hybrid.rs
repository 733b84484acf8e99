//! Post-quantum keys of age: `age1pq1…` and `AGE-SECRET-KEY-PQ-1…`, the stanza `mlkem768x25519` (C2SP age.md).
//!
//! The file key is sealed with HPKE (RFC 9180) in base mode: X-Wing, HKDF-SHA256, ChaCha20-Poly1305.

use super::xwing::{DecapsulationKey, ENCAPSULATION_LEN, EncapsulationKey, PUBLIC_LEN, Shared};
use age::{
    DecryptError, EncryptError,
    secrecy::{ExposeSecret, SecretString},
};
use age_core::{
    format::{FILE_KEY_BYTES, FileKey, Stanza},
    primitives::{bech32_decode, bech32_encode},
};
use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bech32::Hrp;
use std::{collections::HashSet, fmt, io};
use zeroize::{Zeroize, Zeroizing};

const TAG: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
/// Such stanzas may not share a file with ones that a quantum computer opens.
const LABEL: &str = "postquantum";
const PUBLIC_PREFIX: &str = "age1pq";
const SECRET_PREFIX: &str = "age-secret-key-pq-";
const BODY_LEN: usize = FILE_KEY_BYTES + 16;

#[derive(Clone)]
pub(crate) struct Recipient(EncapsulationKey);

impl Recipient {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = decode(text, PUBLIC_PREFIX, PUBLIC_LEN)?;
        EncapsulationKey::from_bytes(&bytes).map(Self)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32_encode(Hrp::parse_unchecked(PUBLIC_PREFIX), &self.0.to_bytes()))
    }
}

impl age::Recipient for Recipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let failed = || EncryptError::Io(io::Error::other("the post-quantum key cannot be encrypted to"));
        let (encapsulation, shared) = self.0.encapsulate().ok_or_else(failed)?;
        let (key, nonce) = schedule(&shared).ok_or_else(failed)?;
        let mut body = file_key.expose_secret().to_vec();
        if key.seal_in_place_append_tag(nonce, Aad::empty(), &mut body).is_err() {
            body.zeroize();
            return Err(failed());
        }
        let stanza = Stanza { tag: TAG.into(), args: vec![BASE64_STANDARD_NO_PAD.encode(encapsulation)], body };
        Ok((vec![stanza], HashSet::from([LABEL.to_owned()])))
    }
}

#[derive(Clone)]
pub(crate) struct Identity(DecapsulationKey);

impl Identity {
    /// `None` when there is no randomness.
    pub(super) fn generate() -> Option<Self> {
        DecapsulationKey::generate().map(Self)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = decode(text, SECRET_PREFIX, 32)?;
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(&bytes);
        Some(Self(DecapsulationKey::new(seed)))
    }

    pub(super) fn to_public(&self) -> Recipient {
        Recipient(self.0.public())
    }

    pub(super) fn to_secret(&self) -> SecretString {
        let lower = Zeroizing::new(bech32_encode(Hrp::parse_unchecked(SECRET_PREFIX), self.0.seed()));
        lower.to_uppercase().into()
    }

    fn unwrap(&self, encapsulation: &[u8], body: &[u8]) -> Option<Result<FileKey, DecryptError>> {
        let Some(shared) = self.0.decapsulate(encapsulation) else { return Some(Err(DecryptError::InvalidHeader)) };
        let (key, nonce) = schedule(&shared)?;
        let mut sealed = Zeroizing::new(body.to_vec());
        // Another recipient's stanza looks no different until it is tried.
        let plain = key.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        Some(FileKey::try_init_with_mut(|out| match plain.len() == out.len() {
            true => {
                out.copy_from_slice(plain);
                Ok(())
            }
            false => Err(DecryptError::InvalidHeader),
        }))
    }
}

impl age::Identity for Identity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        if stanza.tag != TAG {
            return None;
        }
        let [argument] = &stanza.args[..] else { return Some(Err(DecryptError::InvalidHeader)) };
        match BASE64_STANDARD_NO_PAD.decode(argument) {
            Ok(encapsulation) if encapsulation.len() == ENCAPSULATION_LEN && stanza.body.len() == BODY_LEN => {
                self.unwrap(&encapsulation, &stanza.body)
            }
            _ => Some(Err(DecryptError::InvalidHeader)),
        }
    }

    /// A malformed stanza spoils the file even where another one would open it.
    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let mut opened = None;
        for stanza in stanzas {
            match self.unwrap_stanza(stanza) {
                Some(Err(e)) => return Some(Err(e)),
                Some(ok) if opened.is_none() => opened = Some(ok),
                _ => (),
            }
        }
        opened
    }
}

/// The bytes behind a Bech32 text in one case, if prefix and length are as they must be.
fn decode(text: &str, prefix: &str, len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let right = |hrp: Hrp| hrp.as_str().eq_ignore_ascii_case(prefix).then_some(()).ok_or(());
    let mut out = Zeroizing::new(Vec::with_capacity(len));
    bech32_decode(
        text,
        |_| (),
        right,
        |_, bytes| {
            out.extend(bytes.take(len + 1));
            Ok(())
        },
    )
    .ok()?;
    (out.len() == len).then_some(out)
}

/// RFC 9180's key schedule, base mode: key and nonce of the one message.
fn schedule(shared: &Shared) -> Option<(LessSafeKey, Nonce)> {
    let mut context = vec![0];
    context.extend_from_slice(&*extract(&[], b"psk_id_hash", &[]));
    context.extend_from_slice(&*extract(&[], b"info_hash", INFO));
    let secret = extract(&**shared, b"secret", &[]);
    let key = expand(&secret, b"key", &context, 32);
    let nonce = expand(&secret, b"base_nonce", &context, 12);
    let nonce = Nonce::try_assume_unique_for_key(&nonce[..12]).ok()?;
    Some((LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?), nonce))
}

/// `HPKE-v1`, then KEM 0x647a, KDF HKDF-SHA256, AEAD ChaCha20-Poly1305.
const SUITE: &[u8] = b"HPKE-v1HPKE\x64\x7a\x00\x01\x00\x03";

fn extract(salt: &[u8], label: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
    sign(salt, &[SUITE, label, input])
}

/// At most 32 bytes: one block of HKDF-Expand, of which a shorter output is the beginning.
fn expand(secret: &[u8; 32], label: &[u8], info: &[u8], len: u8) -> Zeroizing<[u8; 32]> {
    sign(secret, &[&[0, len], SUITE, label, info, &[1]])
}

fn sign(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(context.sign().as_ref());
    out
}
