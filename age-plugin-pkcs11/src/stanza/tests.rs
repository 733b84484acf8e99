use super::*;
use age::Recipient;
use age_core::secrecy::ExposeSecret;
use proptest::prelude::*;

/// A key that a token would hold, and its recipient.
fn software_key(seed: u8) -> (p256::SecretKey, age::tag::Recipient) {
    let secret = p256::SecretKey::from_slice(&[seed; 32]).unwrap();
    let bytes = secret.public_key().to_encoded_point(true);
    let text = age_core::primitives::bech32_encode(bech32::Hrp::parse("age1tag").unwrap(), bytes.as_bytes());
    (secret, text.parse().unwrap())
}

/// What the token does.
fn agree(secret: &p256::SecretKey, point: &[u8]) -> [u8; 32] {
    let point = PublicKey::from_sec1_bytes(point).unwrap();
    (*p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), point.as_affine()).raw_secret_bytes()).into()
}

fn file_key() -> FileKey {
    FileKey::new(Box::new([7; 16]))
}

/// A stanza by the `age` crate, whose HPKE is another implementation.
fn wrapped(recipient: &age::tag::Recipient) -> Stanza {
    recipient.wrap_file_key(&file_key()).unwrap().0.remove(0)
}

fn copy(stanza: &Stanza) -> Stanza {
    Stanza { tag: stanza.tag.clone(), args: stanza.args.clone(), body: stanza.body.clone() }
}

#[test]
fn what_age_wraps_is_opened() {
    let (secret, recipient) = software_key(1);
    let stanza = Tagged::parse(&wrapped(&recipient)).unwrap().unwrap();
    assert!(stanza.is_for(&secret.public_key()));
    let opened = stanza.open(&secret.public_key(), &agree(&secret, stanza.point())).unwrap();
    assert_eq!(opened.expose_secret(), file_key().expose_secret());

    let (other, _) = software_key(2);
    assert!(!stanza.is_for(&other.public_key()));
    assert!(stanza.open(&other.public_key(), &agree(&other, stanza.point())).is_none());
    assert!(stanza.open(&secret.public_key(), &[0; 32]).is_none());
}

/// The example stanza and recipient of C2SP age.md; its private key is not published.
#[test]
fn the_stanza_of_the_specification() {
    let stanza = Stanza {
        tag: NAME.into(),
        args: vec![
            "CXBuUw".into(),
            "BOqTylUtZFwkMTxd6UENg8kopiMhRJBOUXMv5w2xVOmJu7eezoALGXiNtq5Vka+UQvaYbQvAdwjIJEDaoBaq7So".into(),
        ],
        body: BASE64_STANDARD_NO_PAD.decode("bZQpLsV8uGqGPs70J6dVodiHejsZ5BODjaRsB0RcBqI").unwrap(),
    };
    assert!(Tagged::parse(&stanza).unwrap().is_ok());
}

#[test]
fn every_flip_is_refused() {
    let (secret, recipient) = software_key(3);
    let whole = wrapped(&recipient);
    for at in 0..whole.body.len() * 8 {
        let mut stanza = copy(&whole);
        stanza.body[at / 8] ^= 1 << (at % 8);
        let stanza = Tagged::parse(&stanza).unwrap().unwrap();
        assert!(stanza.open(&secret.public_key(), &agree(&secret, stanza.point())).is_none(), "bit {at}");
    }
    // Another point is another secret, and another tag.
    let mut stanza = copy(&whole);
    stanza.args[1] = wrapped(&recipient).args[1].clone();
    let stanza = Tagged::parse(&stanza).unwrap().unwrap();
    assert!(!stanza.is_for(&secret.public_key()));
    assert!(stanza.open(&secret.public_key(), &agree(&secret, stanza.point())).is_none());
}

#[test]
fn bad_stanzas() {
    let whole = wrapped(&software_key(4).1);
    let changed = |change: &dyn Fn(&mut Stanza)| {
        let mut stanza = copy(&whole);
        change(&mut stanza);
        Tagged::parse(&stanza).unwrap().unwrap_err()
    };
    assert!(Tagged::parse(&Stanza { tag: "X25519".into(), args: vec![], body: vec![] }).is_none());
    assert_eq!(changed(&|s| s.args.clear()), StanzaError::Arguments(0));
    assert_eq!(changed(&|s| s.args.push("a".into())), StanzaError::Arguments(3));
    for tag in ["", "AAAA", "AAAAA", "AAAAAA==", "AAAAAB", "AAAAAAAA", "*AAAAA"] {
        assert_eq!(changed(&|s| s.args[0] = tag.into()), StanzaError::Tag, "{tag}");
    }
    assert_eq!(changed(&|s| s.args[1].truncate(80)), StanzaError::Length);
    assert_eq!(changed(&|s| s.args[1] = "A".repeat(1 << 20)), StanzaError::Length);
    let point = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
    assert_eq!(changed(&|s| s.args[1] = point(&[4; 33])), StanzaError::Length);
    assert_eq!(changed(&|s| s.args[1] = point(&[0; 65])), StanzaError::Point);
    assert_eq!(changed(&|s| s.args[1] = point(&[4; 65])), StanzaError::Point);
    assert_eq!(changed(&|s| s.body.truncate(31)), StanzaError::Body(31));
    assert_eq!(changed(&|s| s.body.push(0)), StanzaError::Body(33));
}

proptest! {
    #[test]
    fn no_stanza_panics(args in proptest::collection::vec("[A-Za-z0-9+/=]{0,90}", 0..4), body in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = Tagged::parse(&Stanza { tag: NAME.into(), args, body });
    }
}
