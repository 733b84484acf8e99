//! Any bytes as a signature file: an error, or something that no key made. The certificates in it, if there are some, are followed.

#![no_main]

use coffer_evidence::signature::{Signature, Trust};
use coffer_seal::signing::{SigningKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TRUST: LazyLock<[Trust; 2]> = LazyLock::new(|| {
    let key: VerifyingKey = SigningKey::generate().and_then(|key| key.verifying_key()).expect("a key");
    [Trust::Key(key), Trust::Certificates(Vec::new())]
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(signature) = Signature::parse(bytes) else { return };
    for trust in TRUST.iter() {
        assert!(signature.verify(trust).is_err(), "nobody signed this");
    }
});
