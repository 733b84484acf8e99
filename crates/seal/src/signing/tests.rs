//! Against keys, signatures and certificates that OpenSSL made: testdata/signing/make.sh.

use super::*;
use std::{
    fs,
    path::{Path, PathBuf},
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/signing").join(name)
}

fn certificates(names: &[&str]) -> Vec<Certificate> {
    names.iter().flat_map(|name| Certificate::read(&data(&format!("{name}.pem"))).unwrap()).collect()
}

#[test]
fn keys_and_signatures_of_openssl() {
    for (name, curve) in [("p256", Curve::P256), ("p384", Curve::P384), ("p521", Curve::P521)] {
        let public = VerifyingKey::read(&data(&format!("{name}.pub.pem"))).unwrap();
        let private = SigningKey::read(&data(&format!("{name}.pem"))).unwrap();
        assert_eq!((public.curve(), private.verifying_key().unwrap()), (curve, public.clone()));
        assert_eq!(public.to_pem(), fs::read_to_string(data(&format!("{name}.pub.pem"))).unwrap());
        let theirs = fs::read(data(&format!("{name}.sig"))).unwrap();
        let ours = private.sign(b"message").unwrap();
        for signature in [&theirs, &ours] {
            public.verify(b"message", signature).unwrap();
            assert!(matches!(public.verify(b"massage", signature), Err(SigningError::Mismatch)));
            assert!(public.verify(b"message", &signature[1..]).is_err());
        }
        let mut changed = theirs.clone();
        changed[theirs.len() / 2] ^= 1;
        assert!(public.verify(b"message", &changed).is_err());
    }
    let sec1 = SigningKey::read(&data("p256.sec1.pem")).unwrap().verifying_key().unwrap();
    assert_eq!(sec1, VerifyingKey::read(&data("p256.pub.pem")).unwrap());
}

/// `openssl dgst -sha256 p256.pub.pem` names the key as `fingerprint` does.
#[test]
fn fingerprint_is_the_hash_of_the_file() {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fs::read(data("p521.pub.pem")).unwrap());
    assert_eq!(VerifyingKey::read(&data("p521.pub.pem")).unwrap().fingerprint(), hex::encode(hash));
}

#[test]
fn a_new_key_is_written_once_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let key = SigningKey::generate().unwrap();
    key.write(&path).unwrap();
    assert_eq!(SigningKey::read(&path).unwrap().verifying_key().unwrap(), key.verifying_key().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(key.write(&path), Err(SigningError::File(KeyError::Exists(_)))));
    assert_eq!(format!("{key:?}"), "SigningKey(P256)");
}

#[test]
fn other_files_are_refused_with_what_they_are() {
    let private = |name: &str| SigningKey::read(&data(name)).unwrap_err().to_string();
    let public = |name: &str| VerifyingKey::read(&data(name)).unwrap_err().to_string();
    assert!(private("encrypted.pem").contains("passphrase"));
    assert!(private("k256.pem").contains("no ECDSA key on P-256"));
    assert!(private("ed25519.pem").contains("no ECDSA key on P-256"));
    assert!(private("p256.pub.pem").ends_with("no private key in it; it holds PUBLIC KEY"));
    assert!(private("p256.sig").contains("p256.sig"));
    assert!(public("p256.pem").ends_with("no public key in it; it holds PRIVATE KEY"));
    assert!(public("make.sh").ends_with("no public key in it; it has no PEM block"));
    assert!(public("absent.pem").contains("absent.pem"));
    assert!(Certificate::read(&data("p256.pem")).err().unwrap().to_string().contains("no certificate in it"));
}

#[test]
fn chains_that_hold() {
    let roots = certificates(&["root"]);
    let key = VerifyingKey::read(&data("p256.pub.pem")).unwrap();
    let chains: [&[&str]; 4] = [
        &["leaf", "middle"],
        &["leaf-code-signing", "middle"],
        &["leaf", "self", "middle", "root"],
        &["leaf", "middle-no-ca", "middle"],
    ];
    for chain in chains {
        assert_eq!(verify_chain(&certificates(chain), &roots).unwrap(), key, "{chain:?}");
    }
    assert_eq!(verify_chain(&certificates(&["leaf"]), &certificates(&["middle", "root"])).unwrap(), key);
    assert_eq!(verify_chain(&certificates(&["leaf", "middle-by-ed25519"]), &certificates(&["root-ed25519"])).unwrap(), key);
    assert_eq!(verify_chain(&certificates(&["self"]), &certificates(&["self"])).unwrap(), key);
}

#[test]
fn chains_that_do_not_hold() {
    let cases: [(&[&str], &[&str], &str); 14] = [
        (&["leaf"], &["root"], "its issuer `CN=middle` is not among"),
        (&["leaf", "middle"], &["root-ed25519"], "its issuer `CN=root` is not among"),
        (&["leaf", "middle"], &["middle"], "its issuer `CN=root` is not among"),
        (&["leaf", "middle", "root"], &["root-ed25519"], "self-signed and not among the trusted"),
        (&["self"], &["root"], "self-signed and not among the trusted"),
        (&["leaf-no-usage", "middle"], &["root"], "neither key usage"),
        (&["leaf-early", "middle"], &["root"], "not when the signing certificate begins"),
        (&["leaf-unknown", "middle"], &["root"], "the extension 1.2.3.4"),
        (&["leaf-rsa", "middle"], &["root"], "no ECDSA key"),
        (&["leaf", "middle-no-ca"], &["root"], "not a certificate authority's"),
        (&["leaf", "middle-no-certsign"], &["root"], "may not sign certificates"),
        (&["leaf", "middle-names"], &["root"], "the extension 2.5.29.30"),
        (&["leaf", "middle"], &["root-short"], "through at most 0 others, not 1"),
        (&[], &["root"], "carries no certificate"),
    ];
    for (chain, trusted, expected) in cases {
        let error = verify_chain(&certificates(chain), &certificates(trusted)).unwrap_err().to_string();
        assert!(error.contains(expected), "{chain:?}: {error}");
    }
}

/// No certificate that differs in one bit leads to the root, and none panics.
#[test]
fn changed_certificates_are_refused() {
    let (roots, middle) = (certificates(&["root"]), certificates(&["middle"]).remove(0));
    let leaf = certificates(&["leaf"]).remove(0);
    let (mut malformed, mut refused) = (0, 0);
    for at in 0..leaf.der().len() {
        let mut der = leaf.der().to_vec();
        der[at] ^= 1 << (at % 8);
        match Certificate::from_der("changed", &der) {
            Err(_) => malformed += 1,
            Ok(changed) => {
                assert!(verify_chain(&[changed, middle.clone()], &roots).is_err(), "byte {at}");
                refused += 1;
            }
        }
    }
    for end in 0..leaf.der().len() {
        assert!(Certificate::from_der("cut", &leaf.der()[..end]).is_err());
    }
    println!("{malformed} malformed, {refused} refused of {} changed certificates", leaf.der().len());
}
