//! The receiver's half of HPKE (RFC 9180) in base mode, for who is handed the Diffie-Hellman result by a token: DHKEM(P-256, HKDF-SHA256),
//! HKDF-SHA256, ChaCha20-Poly1305, one message, no additional data.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInPlace};
use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Length of a P-256 point, uncompressed.
pub(crate) const POINT_LEN: usize = 65;
/// Bytes that sealing adds.
pub(crate) const TAG_LEN: usize = 16;

const KEM_SUITE: &[u8] = b"KEM\x00\x10";
const HPKE_SUITE: &[u8] = b"HPKE\x00\x10\x00\x01\x00\x03";
const BASE_MODE: u8 = 0;

/// Opens `sealed`, of which the token's key (`public` is its public half) and `enc` gave the x-coordinate `dh`. `None`: another key, or changed.
pub(crate) fn open(
    dh: &[u8; 32],
    enc: &[u8; POINT_LEN],
    public: &[u8; POINT_LEN],
    info: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (text, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_LEN)?)?;
    let (key, nonce) = schedule(&shared_secret(dh, enc, public), info);
    let mut plain = Zeroizing::new(text.to_vec());
    let opened = ChaCha20Poly1305::new((&*key).into()).decrypt_in_place_detached(&nonce.into(), b"", &mut plain, tag.into());
    opened.ok().map(|()| plain)
}

/// Section 4.1: `ExtractAndExpand`.
fn shared_secret(dh: &[u8; 32], enc: &[u8; POINT_LEN], public: &[u8; POINT_LEN]) -> Zeroizing<[u8; 32]> {
    let prk = extract(KEM_SUITE, b"", b"eae_prk", dh);
    let mut secret = Zeroizing::new([0; 32]);
    expand(KEM_SUITE, &prk, b"shared_secret", &[enc, public], &mut *secret);
    secret
}

/// Section 5.1: `KeySchedule`; the nonce of the first message is the base nonce.
fn schedule(shared: &[u8; 32], info: &[u8]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
    let [psk_id_hash, info_hash] = [(&b"psk_id_hash"[..], &b""[..]), (b"info_hash", info)].map(|(label, ikm)| {
        let (hash, _) = labeled(HPKE_SUITE, b"", label, ikm).finalize();
        hash
    });
    let context: [&[u8]; 3] = [&[BASE_MODE], &psk_id_hash, &info_hash];
    let secret = extract(HPKE_SUITE, shared, b"secret", b"");
    let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 12]);
    expand(HPKE_SUITE, &secret, b"key", &context, &mut *key);
    expand(HPKE_SUITE, &secret, b"base_nonce", &context, &mut nonce);
    (key, nonce)
}

/// Section 4: `LabeledExtract`.
fn extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> Hkdf<Sha256> {
    labeled(suite, salt, label, ikm).finalize().1
}

fn labeled(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> HkdfExtract<Sha256> {
    let mut extract = HkdfExtract::new(Some(salt));
    [b"HPKE-v1", suite, label, ikm].into_iter().for_each(|part| extract.input_ikm(part));
    extract
}

/// Section 4: `LabeledExpand`, `info` in parts.
fn expand(suite: &[u8], prk: &Hkdf<Sha256>, label: &[u8], info: &[&[u8]], out: &mut [u8]) {
    // At most 32 bytes, as callers ask for them.
    let length = [0, out.len() as u8];
    let parts: Vec<&[u8]> = [&length[..], b"HPKE-v1", suite, label].into_iter().chain(info.iter().copied()).collect();
    prk.expand_multi_info(&parts, out).unwrap_or_else(|_| unreachable!("HKDF-SHA256 gives up to 8160 bytes"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// RFC 9180, A.5.1: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
    #[test]
    fn the_vector_of_the_rfc() {
        let enc = bytes(concat!(
            "04c07836a0206e04e31d8ae99bfd549380b072a1b1b82e563c935c095827824fc1",
            "559eac6fb9e3c70cd3193968994e7fe9781aa103f5b50e934b5b2f387e381291"
        ));
        let public = bytes(concat!(
            "04a697bffde9405c992883c5c439d6cc358170b51af72812333b015621dc0f40ba",
            "d9bb726f68a5c013806a790ec716ab8669f84f6b694596c2987cf35baba2a006"
        ));
        let secret =
            p256::SecretKey::from_slice(&bytes::<32>("a4d1c55836aa30f9b3fbb6ac98d338c877c2867dd3a77396d13f68d3ab150d3b"));
        let dh = p256::ecdh::diffie_hellman(
            secret.unwrap().to_nonzero_scalar(),
            p256::PublicKey::from_sec1_bytes(&enc).unwrap().as_affine(),
        );
        let shared = shared_secret(dh.raw_secret_bytes().as_ref(), &enc, &public);
        assert_eq!(hex::encode(*shared), "806520f82ef0b03c823b7fc524b6b55a088f566b9751b89551c170f4113bd850");
        let (key, nonce) = schedule(&shared, &hex::decode("4f6465206f6e2061204772656369616e2055726e").unwrap());
        assert_eq!(hex::encode(*key), "a8f45490a92a3b04d1dbf6cf2c3939ad8bfc9bfcb97c04bffe116730c9dfe3fc");
        assert_eq!(hex::encode(nonce), "726b4390ed2209809f58c693");
    }
}
