//! X-Wing: ML-KEM-768 and X25519 in one key encapsulation, safe while either of them is
//! (draft-connolly-cfrg-xwing-kem; HPKE KEM 0x647a).

use ml_kem::{EncapsulateDeterministic, EncodedSizeUser, KemCore, MlKem768, MlKem768Params, kem::Decapsulate};
use sha3::{
    Digest, Sha3_256, Shake256,
    digest::{ExtendableOutput, Update, XofReader},
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of a public key: 1184 of ML-KEM-768, then 32 of X25519.
pub(super) const PUBLIC_LEN: usize = ML_KEM_PUBLIC_LEN + 32;
/// Bytes of an encapsulation: 1088 of ML-KEM-768, then 32 of X25519.
pub(super) const ENCAPSULATION_LEN: usize = ML_KEM_ENCAPSULATION_LEN + 32;

const ML_KEM_PUBLIC_LEN: usize = 1184;
const ML_KEM_ENCAPSULATION_LEN: usize = 1088;
const LABEL: &[u8; 6] = br"\.//^\";

type MlKemPublic = ml_kem::kem::EncapsulationKey<MlKem768Params>;
type MlKemPrivate = ml_kem::kem::DecapsulationKey<MlKem768Params>;
pub(super) type Shared = Zeroizing<[u8; 32]>;

/// A public key.
#[derive(Clone)]
pub(super) struct EncapsulationKey {
    ml_kem: MlKemPublic,
    x25519: PublicKey,
}

impl EncapsulationKey {
    /// `None` unless `bytes` has 1216 bytes and is what encoding gives (FIPS 203, 7.2: the modulus check).
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (ml_kem, x25519) = bytes.split_at_checked(ML_KEM_PUBLIC_LEN)?;
        let x25519 = PublicKey::from(<[u8; 32]>::try_from(x25519).ok()?);
        let key = Self { ml_kem: MlKemPublic::from_bytes(&ml_kem.try_into().ok()?), x25519 };
        (key.to_bytes() == bytes).then_some(key)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&self.ml_kem.as_bytes()[..], self.x25519.as_bytes()].concat()
    }

    /// A fresh shared secret and what carries it; `None` if the key has a low-order point or there is no randomness.
    pub(super) fn encapsulate(&self) -> Option<(Vec<u8>, Shared)> {
        let mut seed = Zeroizing::new([0; 64]);
        getrandom::fill(&mut *seed).ok()?;
        self.encapsulate_from(&seed)
    }

    fn encapsulate_from(&self, seed: &[u8; 64]) -> Option<(Vec<u8>, Shared)> {
        let (for_ml_kem, for_x25519) = seed.split_at(32);
        let (carried, secret) = self.ml_kem.encapsulate_deterministic(&for_ml_kem.try_into().ok()?).ok()?;
        let secret = Zeroizing::new(<[u8; 32]>::from(secret));
        let ephemeral = StaticSecret::from(<[u8; 32]>::try_from(for_x25519).ok()?);
        let point = PublicKey::from(&ephemeral);
        let agreed = ephemeral.diffie_hellman(&self.x25519);
        let shared = agreed.was_contributory().then(|| combine(&secret, agreed.as_bytes(), &point, &self.x25519))?;
        Some(([&carried[..], point.as_bytes()].concat(), shared))
    }
}

/// A private key: a seed of 32 bytes.
#[derive(Clone)]
pub(super) struct DecapsulationKey(Zeroizing<[u8; 32]>);

impl DecapsulationKey {
    pub(super) fn generate() -> Option<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).ok()?;
        Some(Self(seed))
    }

    pub(super) fn new(seed: Zeroizing<[u8; 32]>) -> Self {
        Self(seed)
    }

    pub(super) fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn public(&self) -> EncapsulationKey {
        let (ml_kem, x25519) = self.expand();
        EncapsulationKey { ml_kem: ml_kem.encapsulation_key().clone(), x25519: PublicKey::from(&x25519) }
    }

    /// `None` if the encapsulation has another length than 1120 bytes, or a low-order point, which X-Wing leaves open and age forbids.
    pub(super) fn decapsulate(&self, encapsulation: &[u8]) -> Option<Shared> {
        let (carried, point) = encapsulation.split_at_checked(ML_KEM_ENCAPSULATION_LEN)?;
        let point = PublicKey::from(<[u8; 32]>::try_from(point).ok()?);
        let (ml_kem, x25519) = self.expand();
        let secret = Zeroizing::new(<[u8; 32]>::from(ml_kem.decapsulate(&carried.try_into().ok()?).ok()?));
        let agreed = x25519.diffie_hellman(&point);
        agreed.was_contributory().then(|| combine(&secret, agreed.as_bytes(), &point, &PublicKey::from(&x25519)))
    }

    fn expand(&self) -> (MlKemPrivate, StaticSecret) {
        let mut stream = Shake256::default().chain(*self.0).finalize_xof();
        let mut next = || {
            let mut bytes = Zeroizing::new([0; 32]);
            stream.read(&mut *bytes);
            bytes
        };
        let (d, z, x25519) = (next(), next(), next());
        (MlKem768::generate_deterministic(&(*d).into(), &(*z).into()).0, StaticSecret::from(*x25519))
    }
}

fn combine(ml_kem: &[u8; 32], x25519: &[u8; 32], point: &PublicKey, public: &PublicKey) -> Shared {
    let mut hash = Sha3_256::new();
    for part in [&ml_kem[..], x25519, point.as_bytes(), public.as_bytes(), LABEL] {
        Update::update(&mut hash, part);
    }
    Zeroizing::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vector of draft-connolly-cfrg-xwing-kem; long values by their SHA-256.
    #[test]
    fn known_answer() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let sha256 = |data: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data));
        let seed = bytes("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26");
        let private = DecapsulationKey::new(Zeroizing::new(seed.try_into().unwrap()));
        let public = private.public();
        assert_eq!(sha256(&public.to_bytes()), "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb");
        let seed = bytes(
            "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2\
             35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2",
        );
        let (carried, shared) = public.encapsulate_from(&seed.try_into().unwrap()).unwrap();
        assert_eq!(sha256(&carried), "17cd532d657e44c897ca6583e548a5424fc70bf54f99515a4d2bcf99e3469f33");
        assert_eq!(hex::encode(*shared), "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384");
        assert_eq!(private.decapsulate(&carried), Some(shared));
        assert!(private.decapsulate(&carried[1..]).is_none() && private.decapsulate(&[]).is_none());
    }
}
