use super::*;
use crate::vectors;
use proptest::prelude::*;

fn exchange() -> (ServerKey, ClientRequest, String, Vec<u8>) {
    let server = ServerKey::generate();
    let (client, header, body) = ClientRequest::seal(&server.config(), b"a question").unwrap();
    (server, client, header, body)
}

fn malformed(result: Result<impl Sized, EhbpError>, part: &str) {
    match result {
        Err(EhbpError::Malformed(text)) => assert!(text.contains(part), "{text:?} does not mention {part:?}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted, expected: {part}"),
    }
}

#[test]
fn question_and_answer() {
    let (server, client, header, body) = exchange();
    let mut request = server.open(&header).unwrap();
    assert_eq!(request.push(&body).unwrap(), b"a question");
    let (mut sealer, nonce) = request.finish().unwrap();
    let answer = [sealer.seal(b"one ").unwrap(), sealer.seal(b"").unwrap(), vec![0; 4], sealer.seal(b"two").unwrap()].concat();
    let mut opener = client.open(&nonce).unwrap();
    assert_eq!(opener.push(&answer).unwrap(), b"one two");
    opener.finish().unwrap();
}

#[test]
fn bytes_arrive_one_at_a_time() {
    let (server, _, header, mut body) = exchange();
    body.splice(0..0, [0; 4]);
    let mut request = server.open(&header).unwrap();
    let plaintext: Vec<u8> = body.iter().flat_map(|b| request.push(&[*b]).unwrap()).collect();
    assert_eq!(plaintext, b"a question");
}

#[test]
fn a_long_body_takes_several_frames() {
    let server = ServerKey::generate();
    let body = vec![7; MAX_FRAME + 5];
    let (_, header, framed) = ClientRequest::seal(&server.config(), &body).unwrap();
    assert_eq!(framed[..4], (MAX_FRAME as u32).to_be_bytes());
    assert!(server.open(&header).unwrap().push(&framed).unwrap() == body);
}

#[test]
fn config_is_rfc_9458_without_its_length() {
    let config = ServerKey::generate().config();
    assert_eq!(config.len(), 41);
    assert_eq!((&config[..3], &config[35..]), (&[0, 0, 0x20][..], &[0, 4, 0, 1, 0, 2][..]));
}

#[test]
fn another_key_is_told_apart() {
    let (_, _, header, body) = exchange();
    let mut request = ServerKey::generate().open(&header).unwrap();
    assert_eq!(request.push(&body), Err(EhbpError::WrongKey));
    malformed(request.push(&body), "earlier frame");
    malformed(request.finish(), "earlier frame");
}

#[test]
fn bad_headers() {
    let (server, client, ..) = exchange();
    for text in ["", "00", "zz", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
        malformed(server.open(text), ENCAPSULATED_KEY);
    }
    malformed(server.open(&"0".repeat(64)), "no X25519 public key");
    malformed(client.open("abc"), RESPONSE_NONCE);
}

#[test]
fn bad_configs() {
    let config = ServerKey::generate().config();
    for length in 0..config.len() {
        malformed(ClientRequest::seal(&config[..length], b"x"), "cut");
    }
    let with = |at: usize, value: u8| {
        let mut bad = config.clone();
        bad[at] = value;
        bad
    };
    malformed(ClientRequest::seal(&with(2, 0x10), b"x"), "KEM 0x0010");
    malformed(ClientRequest::seal(&with(40, 1), b"x"), "no suite");
    let zero_key = [&config[..3], &[0; 32], &config[35..]].concat();
    malformed(ClientRequest::seal(&zero_key, b"x"), "no X25519 public key");
    malformed(ClientRequest::seal(&config, b""), "without a body");
}

#[test]
fn bad_frames() {
    let (server, _, header, body) = exchange();
    let open = || server.open(&header).unwrap();
    malformed(open().push(&[0, 0, 0, 15]), "15 bytes long");
    malformed(open().push(&(MAX_FRAME as u32 + 1).to_be_bytes()), "16777217 bytes long");
    malformed(open().push(&[0xff; 4]), "4294967295 bytes long");
    malformed(open().finish(), "no frame");
    let mut zero = open();
    zero.push(&[0; 8]).unwrap();
    malformed(zero.finish(), "no frame");
    for cut in 1..body.len() {
        let mut request = open();
        assert_eq!(request.push(&body[..cut]).unwrap(), b"");
        malformed(request.finish(), "into frame 0");
    }
}

#[test]
fn frames_cannot_be_repeated_dropped_or_swapped() {
    let (server, client, header, body) = exchange();
    let mut request = server.open(&header).unwrap();
    request.push(&body).unwrap();
    malformed(request.push(&body), "frame 1");
    let mut request = server.open(&header).unwrap();
    request.push(&body).unwrap();
    let (mut sealer, nonce) = request.finish().unwrap();
    let frames = [sealer.seal(b"first").unwrap(), sealer.seal(b"second").unwrap()];
    let secret = {
        let mut s = [0; N];
        client.context.export(RESPONSE_LABEL, &mut s).unwrap();
        s
    };
    let nonce = parse_hex(RESPONSE_NONCE, &nonce).unwrap();
    let opener = || ResponseOpener { key: ResponseKey::derive(&secret, &client.enc, &nonce).unwrap(), frames: Frames::default() };
    malformed(opener().push(&[&frames[0][..], &frames[0]].concat()), "frame 1");
    malformed(opener().push(&frames[1]), "frame 0");
    malformed(opener().push(&[&frames[1][..], &frames[0]].concat()), "frame 0");
    let mut cut = opener();
    assert_eq!(cut.push(&frames[0][..7]).unwrap(), b"");
    malformed(cut.finish(), "7 bytes into frame 0");
}

proptest! {
    #[test]
    fn any_change_is_refused(at in 0usize..30, mask in 1u8..) {
        let (server, _, header, mut body) = exchange();
        body[at] ^= mask;
        let mut request = server.open(&header).unwrap();
        prop_assert!(request.push(&body).is_err() || request.finish().is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (server, _, header, _) = exchange();
        let mut request = server.open(&header).unwrap();
        let _ = request.push(&bytes);
        prop_assert!(request.finish().is_err());
        let _ = parse_config(&bytes);
    }
}

/// The published derivation and its decryption (tinfoilsh/encrypted-http-body-protocol, test-vectors).
#[test]
fn published_vectors() {
    let Some(folder) = vectors("ehbp") else { return };
    let read = |name: &str| -> serde_json::Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let field = |v: &serde_json::Value, name: &str| hex::decode(v[name].as_str().unwrap()).unwrap();
    let derive = |v: &serde_json::Value| {
        let part = |name| <[u8; N]>::try_from(field(v, name)).unwrap();
        ResponseKey::derive(&part("exportedSecret"), &part("requestEnc"), &part("responseNonce")).unwrap()
    };
    let v = read("derive.json");
    assert_eq!(derive(&v).base[..], field(&v, "derivedNonceBase"));
    let key = UnboundKey::new(&AES_256_GCM, &field(&v, "derivedKey")).unwrap();
    let mut same_key = ResponseKey { key: LessSafeKey::new(key), base: derive(&v).base, sealed: 0 };
    assert_eq!(same_key.seal(b"probe").unwrap(), derive(&v).seal(b"probe").unwrap());
    let v = read("response-decryption.json");
    let mut opener = ResponseOpener { key: derive(&v), frames: Frames::default() };
    assert_eq!(opener.push(&field(&v, "encryptedResponse")).unwrap(), field(&v, "plaintext"));
    println!("ehbp: 2 vectors agree");
}

/// RFC 9180's vectors for the suite that EHBP uses, in base mode.
#[test]
fn rfc_9180_vectors() {
    let Some(folder) = vectors("hpke") else { return };
    let file = std::fs::File::open(folder.join("vectors_rfc9180_5f503c5.json.gz")).unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_reader(flate2::read::GzDecoder::new(file)).unwrap();
    let ours = all.iter().filter(|v| {
        (v["mode"].as_u64(), v["kem_id"].as_u64(), v["kdf_id"].as_u64(), v["aead_id"].as_u64())
            == (Some(0), Some(0x20), Some(1), Some(2))
    });
    let field = |v: &serde_json::Value, name: &str| hex::decode(v[name].as_str().unwrap()).unwrap();
    let (mut opened, mut exported) = (0, 0);
    for v in ours {
        let key = Key::from_bytes(&field(v, "skRm")).unwrap();
        let enc = EncappedKey::from_bytes(&field(v, "enc")).unwrap();
        let mut context: Receiver = setup_receiver(&OpModeR::Base, &key, &enc, &field(v, "info")).unwrap();
        for e in v["encryptions"].as_array().unwrap() {
            assert_eq!(context.open(&field(e, "ct"), &field(e, "aad")).unwrap(), field(e, "pt"));
            opened += 1;
        }
        for e in v["exports"].as_array().unwrap() {
            let mut out = vec![0; e["L"].as_u64().unwrap() as usize];
            context.export(&field(e, "exporter_context"), &mut out).unwrap();
            assert_eq!(out, field(e, "exported_value"));
            exported += 1;
        }
    }
    assert!(opened > 0 && exported > 0);
    println!("hpke: {opened} ciphertexts and {exported} exports agree with RFC 9180");
}
