//! Project Wycheproof's vectors on the primitives that this crate stands on, each called as this crate, or `age` for it, calls it.
//! (<https://github.com/C2SP/wycheproof>)

use crate::vectors;
use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Salt},
    signature::{ED25519, UnparsedPublicKey},
};
use ml_kem::{EncodedSizeUser, KemCore, MlKem768, kem::Decapsulate};
use rsa::{Oaep, RsaPrivateKey, pkcs8::DecodePrivateKey};
use serde_json::Value;
use x25519_dalek::{PublicKey, StaticSecret};

/// What a primitive makes of a vector.
#[derive(PartialEq, Eq)]
enum Outcome {
    Output(Vec<u8>),
    Refused,
    /// It cannot be called so.
    NotCallable,
}
use Outcome::{NotCallable, Output, Refused};

/// Runs all vectors of a file; gives how many agree, are refused as they must be, and cannot be asked.
fn run(file: &str, expected: &str, primitive: impl Fn(&Value, &Value) -> Outcome) -> Option<[usize; 3]> {
    let text = std::fs::read(vectors("wycheproof")?.join(file)).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    let mut counts = [0; 3];
    for group in all["testGroups"].as_array().unwrap() {
        for vector in group["tests"].as_array().unwrap() {
            let valid = vector["result"] != "invalid";
            let at = match primitive(group, vector) {
                Output(bytes) => {
                    assert!(valid && bytes == hex(&vector[expected]), "{file}: {vector}");
                    0
                }
                Refused => {
                    assert!(!valid, "{file}: {vector}");
                    1
                }
                NotCallable => 2,
            };
            counts[at] += 1;
        }
    }
    assert_eq!(counts.iter().sum::<usize>() as u64, all["numberOfTests"].as_u64().unwrap());
    println!("{file}: {} agree, {} are refused as they must be, {} cannot be asked", counts[0], counts[1], counts[2]);
    Some(counts)
}

/// Absent fields are empty.
fn hex(field: &Value) -> Vec<u8> {
    hex::decode(field.as_str().unwrap_or_default()).unwrap()
}

fn or_refused<E>(result: Result<Vec<u8>, E>) -> Outcome {
    result.map_or(Refused, Output)
}

#[test]
fn aes_gcm() {
    let counts = run("aes_gcm_test.json", "msg", |_, vector| {
        let key = hex(&vector["key"]);
        let algorithm: &Algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            _ => &AES_256_GCM,
        };
        // Nonces of 96 bits are the only ones that the library takes.
        let Ok(nonce) = Nonce::try_assume_unique_for_key(&hex(&vector["iv"])) else { return NotCallable };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
        let mut sealed = [hex(&vector["ct"]), hex(&vector["tag"])].concat();
        or_refused(key.open_in_place(nonce, Aad::from(hex(&vector["aad"])), &mut sealed).map(|plain| plain.to_vec()))
    });
    assert!(counts.is_none_or(|counts| counts == [116, 81, 119]), "{counts:?}");
}

struct Len(usize);
impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf() {
    for (file, algorithm, want) in
        [("hkdf_sha256_test.json", HKDF_SHA256, [83, 3, 0]), ("hkdf_sha384_test.json", HKDF_SHA384, [80, 3, 0])]
    {
        let counts = run(file, "okm", |_, vector| derived(algorithm, vector));
        assert!(counts.is_none_or(|counts| counts == want), "{counts:?}");
    }
}

fn derived(algorithm: hkdf::Algorithm, vector: &Value) -> Outcome {
    let mut okm = vec![0; vector["size"].as_u64().unwrap() as usize];
    let info = hex(&vector["info"]);
    let key = Salt::new(algorithm, &hex(&vector["salt"])).extract(&hex(&vector["ikm"]));
    let filled = key.expand(&[&info], Len(okm.len())).and_then(|expanded| expanded.fill(&mut okm));
    or_refused(filled.map(|()| okm))
}

#[test]
fn ed25519() {
    // What is expected is that the message is the one signed.
    let counts = run("ed25519_test.json", "msg", |group, vector| {
        let key = UnparsedPublicKey::new(&ED25519, hex(&group["publicKey"]["pk"]));
        let message = hex(&vector["msg"]);
        or_refused(key.verify(&message, &hex(&vector["sig"])).map(|()| message))
    });
    assert!(counts.is_none_or(|counts| counts == [88, 63, 0]), "{counts:?}");
}

#[test]
fn x25519() {
    let counts = run("x25519_test.json", "shared", |_, vector| {
        let [public, private] = ["public", "private"].map(|name| <[u8; 32]>::try_from(hex(&vector[name])).unwrap());
        let shared = StaticSecret::from(private).diffie_hellman(&PublicKey::from(public));
        // Points of low order, which this crate and `age` refuse by this.
        assert_eq!(shared.was_contributory(), shared.as_bytes() != &[0; 32]);
        Output(shared.as_bytes().to_vec())
    });
    assert!(counts.is_none_or(|counts| counts == [518, 0, 0]), "{counts:?}");
}

#[test]
fn ml_kem_768() {
    let counts = run("mlkem_768_test.json", "K", |_, vector| {
        let Ok(seed) = <[u8; 64]>::try_from(hex(&vector["seed"])) else { return Refused };
        let (d, z) = seed.split_at(32);
        let (private, public) = MlKem768::generate_deterministic(d.try_into().unwrap(), z.try_into().unwrap());
        assert_eq!(public.as_bytes().to_vec(), hex(&vector["ek"]), "{vector}");
        let Ok(carried) = hex(&vector["c"]).as_slice().try_into() else { return Refused };
        or_refused(private.decapsulate(&carried).map(|shared| shared.to_vec()))
    });
    assert!(counts.is_none_or(|counts| counts == [153, 40, 0]), "{counts:?}");
}

#[test]
fn rsa_oaep() {
    let counts = run("rsa_oaep_2048_sha256_mgf1sha256_test.json", "msg", |group, vector| {
        // Labels are texts for the library; age's is.
        let Ok(label) = String::from_utf8(hex(&vector["label"])) else { return NotCallable };
        let key = RsaPrivateKey::from_pkcs8_der(&hex(&group["privateKeyPkcs8"])).unwrap();
        or_refused(key.decrypt(Oaep::new_with_label::<rsa::sha2::Sha256, _>(label), &hex(&vector["ct"])))
    });
    assert!(counts.is_none_or(|counts| counts == [13, 19, 5]), "{counts:?}");
}
