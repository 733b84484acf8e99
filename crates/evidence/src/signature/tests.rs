//! Published vectors, and every kind of damage.

use super::*;
use coffer_seal::signing::{Certificate, SigningKey, VerifyingKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn keys(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../seal/testdata/signing").join(name)
}

fn digests(files: &[(&str, u8)]) -> Digests {
    files.iter().map(|(name, byte)| ((*name).to_owned(), [*byte; 32])).collect()
}

fn statement() -> Statement {
    Statement::of_directory("model", digests(&[("config.json", 1), ("a/b", 2)]), Ignored::new(["model.sig"])).unwrap()
}

fn signed(statement: &Statement) -> (String, Trust) {
    let key = SigningKey::read(&keys("p256.pem")).unwrap();
    let trust = Trust::Key(key.verifying_key().unwrap());
    (Signer::new(key, Vec::new()).unwrap().sign(statement).unwrap(), trust)
}

#[test]
fn what_was_signed_comes_back() {
    let statement = statement();
    let (file, trust) = signed(&statement);
    let checked = Signature::parse(file.as_bytes()).unwrap().verify(&trust).unwrap();
    assert_eq!(*checked.statement(), statement);
    assert!(checked.signer().starts_with("key "));
    for curve in ["p384", "p521"] {
        let signer = Signer::new(SigningKey::read(&keys(&format!("{curve}.pem"))).unwrap(), Vec::new()).unwrap();
        let trust = Trust::Key(VerifyingKey::read(&keys(&format!("{curve}.pub.pem"))).unwrap());
        Signature::parse(signer.sign(&statement).unwrap().as_bytes()).unwrap().verify(&trust).unwrap();
    }
}

#[test]
fn certificates_lead_to_their_root() {
    let read = |name: &str| Certificate::read(&keys(name)).unwrap();
    let chain = [read("leaf.pem"), read("middle.pem")].concat();
    let signer = Signer::new(SigningKey::read(&keys("p256.pem")).unwrap(), chain.clone()).unwrap();
    let signature = Signature::parse(signer.sign(&statement()).unwrap().as_bytes()).unwrap();
    assert_eq!(signature.verify(&Trust::Certificates(read("root.pem"))).unwrap().signer(), "CN=signer");
    assert!(matches!(signature.verify(&Trust::Certificates(read("root-ed25519.pem"))), Err(SignatureError::Signing(_))));
    let key = Trust::Key(VerifyingKey::read(&keys("p256.pub.pem")).unwrap());
    assert!(matches!(signature.verify(&key), Err(SignatureError::Kind { .. })));
    let other = Signer::new(SigningKey::read(&keys("p384.pem")).unwrap(), chain);
    assert!(matches!(other.err(), Some(SignatureError::NotItsCertificate(_))));
}

#[test]
fn another_key_or_kind_is_refused() {
    let (file, _) = signed(&statement());
    let signature = Signature::parse(file.as_bytes()).unwrap();
    let other = Trust::Key(VerifyingKey::read(&keys("p384.pub.pem")).unwrap());
    assert!(matches!(signature.verify(&other), Err(SignatureError::Key { .. })));
    let root = Trust::Certificates(Certificate::read(&keys("root.pem")).unwrap());
    assert!(matches!(signature.verify(&root), Err(SignatureError::Kind { .. })));
    // Without its hint the same key is believed, another is not.
    let mut json: Value = serde_json::from_str(&file).unwrap();
    json["verificationMaterial"]["publicKey"] = json!({ "rawBytes": "AA==" });
    let unnamed = Signature::parse(json.to_string().as_bytes()).unwrap();
    assert!(unnamed.verify(&signed(&statement()).1).is_ok());
    assert!(matches!(unnamed.verify(&other), Err(SignatureError::Signing(_))));
}

#[test]
fn differences_are_named() {
    let signed = statement();
    assert!(signed.differences(signed.files()).is_empty());
    let found = digests(&[("config.json", 9), ("extra", 1), ("more", 1)]);
    let text = signed.differences(&found).to_string();
    assert_eq!(text, "`config.json` differs, `a/b` is missing, `extra` was not signed (and 1 more)");
    // A model that is one file has one name for itself and another on disk.
    let file = Statement::of_file("m.gguf", [7; 32]);
    assert!(file.differences(&digests(&[("m.gguf", 7)])).is_empty());
    assert_eq!(file.differences(&digests(&[("m.gguf", 8)])).changed, ["m.gguf"]);
    assert_eq!(file.differences(&digests(&[("a", 7), ("b", 7)])).unsigned, ["a", "b"]);
    assert_eq!(file.differences(&digests(&[("a", 7), ("b", 7)])).missing, ["."]);
    assert_eq!(file.differences(&Digests::new()).missing, ["."]);
}

#[test]
fn names_that_could_mean_two_places_are_refused() {
    for name in ["", "/a", "a//b", "a/", "./a", "a/../b", "..", ".", "a\0"] {
        assert!(Statement::of_directory("m", digests(&[(name, 1), ("ok", 2)]), Ignored::new([])).is_err(), "{name:?}");
    }
    assert!(Statement::of_directory("m", Digests::new(), Ignored::new([])).is_err());
}

/// Each change of the signed statement, signed anew by the right key: refused for what it says.
#[test]
fn malformed_statements() {
    let good: Value = serde_json::from_str(&statement().to_json()).unwrap();
    let parse = |json: &Value| Statement::parse(json.to_string().as_bytes());
    assert_eq!(parse(&good).unwrap(), statement());
    let mut extra = good.clone();
    extra["predicate"]["later"] = json!(1);
    assert_eq!(parse(&extra).unwrap(), statement());
    let resources = good["predicate"]["resources"].as_array().unwrap();
    let cases: [(&str, Value, &str); 14] = [
        ("/_type", json!("https://in-toto.io/Statement/v0.1"), "_type is"),
        ("/predicateType", json!("https://model_signing/Digests/v0.1"), "predicateType is"),
        ("/predicate", json!({}), "missing field"),
        ("/predicate/serialization/method", json!("shards"), "serialization.method is `shards`"),
        ("/predicate/serialization/hash_type", json!("blake3"), "serialization.hash_type is `blake3`"),
        ("/predicate/serialization/allow_symlinks", json!("no"), "invalid type"),
        ("/predicate/resources", json!([]), "its files give the digest"),
        ("/predicate/resources", json!([resources[0], resources[0]]), "listed twice"),
        ("/predicate/resources", json!([resources[1], resources[0]]), "its files give the digest"),
        ("/predicate/resources/0/name", json!("../a"), "no path inside a model"),
        ("/predicate/resources/0/algorithm", json!("blake2"), "has no SHA-256"),
        ("/predicate/resources/0/digest", json!("00"), "has no SHA-256"),
        ("/subject", json!([]), "0 subjects"),
        ("/subject/0/digest/sha256", json!("00"), "its subject has 00"),
    ];
    for (at, value, expected) in cases {
        let mut changed = good.clone();
        *changed.pointer_mut(at).unwrap() = value;
        let error = parse(&changed).unwrap_err().to_string();
        assert!(error.contains(expected), "{at}: {error}");
    }
}

#[test]
fn malformed_bundles() {
    let good: Value = serde_json::from_str(&signed(&statement()).0).unwrap();
    let cases: [(&str, Value, &str); 13] = [
        ("/mediaType", json!("application/vnd.dev.sigstore.bundle.v0.2+json"), "mediaType is"),
        ("/verificationMaterial", json!({}), "neither a key nor a certificate"),
        ("/verificationMaterial", json!({ "publicKey": { "hint": "" }, "certificate": {} }), "more than one of"),
        ("/verificationMaterial", json!({ "certificate": {} }), "without tlogEntries"),
        ("/verificationMaterial", json!({ "certificate": {}, "tlogEntries": [] }), "without tlogEntries"),
        ("/verificationMaterial", json!({ "x509CertificateChain": { "certificates": [] } }), "0 certificates"),
        (
            "/verificationMaterial",
            json!({ "x509CertificateChain": { "certificates": [{ "rawBytes": "?" }] } }),
            "rawBytes is not base64",
        ),
        ("/verificationMaterial", json!({ "unknown": 1 }), "unknown field"),
        ("/dsseEnvelope/payloadType", json!("text/plain"), "payloadType is"),
        ("/dsseEnvelope/payload", json!("****"), "payload is not base64"),
        ("/dsseEnvelope/signatures", json!([]), "0 signatures"),
        ("/dsseEnvelope/signatures/0/sig", json!("AA"), "sig is not base64"),
        ("/dsseEnvelope/signatures/0/keyid", json!(1), "invalid type"),
    ];
    for (at, value, expected) in cases {
        let mut changed = good.clone();
        *changed.pointer_mut(at).unwrap() = value;
        let error = Signature::parse(changed.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{at}: {error}");
    }
    let twice = good.to_string().replacen('{', "{\"mediaType\":\"x\",", 1);
    assert!(Signature::parse(twice.as_bytes()).unwrap_err().to_string().contains("duplicate field"));
    assert!(matches!(Signature::parse(&vec![b' '; MAX_LEN as usize + 1]), Err(SignatureError::TooLong(_))));
    let mut keyid = good;
    keyid["dsseEnvelope"]["signatures"][0]["keyid"] = Value::Null;
    assert!(Signature::parse(keyid.to_string().as_bytes()).is_ok());
}

/// No change of one byte and no cut lets another statement be believed, and none panics.
#[test]
fn changed_signatures_are_refused() {
    let (file, trust) = signed(&statement());
    let bytes = file.as_bytes();
    let (mut malformed, mut refused, mut same) = (0, 0, 0);
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1 << (at % 7);
        match Signature::parse(&changed).map(|signature| signature.verify(&trust)) {
            Err(_) => malformed += 1,
            Ok(Err(_)) => refused += 1,
            Ok(Ok(checked)) => {
                assert_eq!(*checked.statement(), statement(), "byte {at}");
                same += 1;
            }
        }
    }
    (0..bytes.len() - 1)
        .for_each(|end| assert!(Signature::parse(&bytes[..end]).is_err() || bytes[end..].trim_ascii().is_empty()));
    println!("{malformed} malformed, {refused} refused, {same} mean the same, of {} changed signatures", bytes.len());
}

proptest! {
    #[test]
    fn any_files_come_back(files in prop::collection::btree_map("[^/\0.]{1,9}(/[^/\0.]{1,9}){0,2}", any::<[u8; 32]>(), 1..20)) {
        let statement = Statement::of_directory("any", files, Ignored::new([])).unwrap();
        prop_assert_eq!(Statement::parse(statement.to_json().as_bytes()).unwrap(), statement);
    }
}

/// ossf/model-signing-spec, test-vectors/v1.0. The certificate of `certificate` is for the key that made `key` as well, so both
/// are verified whole; `sigstore` needs an identity provider's root and says so.
#[test]
fn published_vectors() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("COFFER_SHARED").map_or_else(beside, Into::into).join("vectors/oms/v1.0");
    if !folder.is_dir() {
        println!("skipped: no {} (set COFFER_SHARED)", folder.display());
        return;
    }
    let read = |name: &str| std::fs::read(folder.join(format!("{name}.bundle.json"))).unwrap();
    let key = leaf_key(&read("valid/certificate"));
    let key = Trust::Key(key);

    let signature = Signature::parse(&read("valid/key")).unwrap();
    assert_eq!(signature.verify(&key).unwrap().statement().files().len(), 2);
    // Its root was not published: the chain is followed to where that is missing, and the signature is checked with the leaf's key.
    let mut chained: Value = serde_json::from_slice(&read("valid/certificate")).unwrap();
    let error = Signature::parse(&read("valid/certificate")).unwrap().verify(&Trust::Certificates(Vec::new())).unwrap_err();
    assert!(error.to_string().contains("its issuer `CN=root-ca` is not among the certificates given"), "{error}");
    chained["verificationMaterial"] = json!({ "publicKey": {} });
    Signature::parse(chained.to_string().as_bytes()).unwrap().verify(&key).unwrap();
    let keyless = Signature::parse(&read("valid/sigstore")).unwrap();
    assert!(matches!(keyless.verify(&key), Err(SignatureError::Keyless)));

    let invalid = [
        ("empty", "EOF"),
        ("missing-envelope", "missing field `dsseEnvelope`"),
        ("missing-tlog-entries", "without tlogEntries"),
        ("missing-verification-material", "missing field `verificationMaterial`"),
    ];
    for (name, reason) in invalid {
        let error = Signature::parse(&read(&format!("invalid/{name}"))).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    // Its signature is that of another statement, and what it states is refused by itself as well.
    let wrong = read("invalid-payload/wrong-predicate");
    assert!(Signature::parse(&wrong).unwrap().verify(&key).is_err());
    let error = Statement::parse(&payload(&wrong)).unwrap_err().to_string();
    assert!(error.contains("predicateType is `https://example.com/wrong-predicate/v1.0`"), "{error}");
    let listed = std::fs::read_dir(&folder).unwrap().flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap()).count();
    assert_eq!(listed, 8);
    println!("{listed} vectors: 3 valid, 5 invalid, each refused for its reason");
}

fn leaf_key(bundle: &[u8]) -> VerifyingKey {
    let json: Value = serde_json::from_slice(bundle).unwrap();
    let leaf = &json["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"];
    Certificate::from_der("leaf", &decode(leaf)).unwrap().key().unwrap()
}

fn payload(bundle: &[u8]) -> Vec<u8> {
    decode(&serde_json::from_slice::<Value>(bundle).unwrap()["dsseEnvelope"]["payload"])
}

fn decode(base64: &Value) -> Vec<u8> {
    <base64ct::Base64 as base64ct::Encoding>::decode_vec(base64.as_str().unwrap()).unwrap()
}
