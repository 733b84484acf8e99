//! A bundle with one part replaced: authentic lists with any content, and any bytes as a key file or marker.

#![no_main]

use coffer_seal::{
    Identity, Recipient,
    bundle::{Bundle, BundleWriter},
    floe,
};
use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::Sha384;
use std::{fs, path::PathBuf, sync::LazyLock};

struct Sealed {
    path: PathBuf,
    identity: [Identity; 1],
    key: Vec<u8>,
    id: [u8; 16],
}

static SEALED: LazyLock<Sealed> = LazyLock::new(|| {
    let path = PathBuf::from(format!("/dev/shm/coffer-fuzz-bundle-{}", std::process::id()));
    let theirs = age::x25519::Identity::generate();
    let file = path.with_extension("key");
    fs::write(&file, age::secrecy::ExposeSecret::expose_secret(&theirs.to_string())).expect("a key file");
    let identity = Identity::read(&file).expect("just written").remove(0);
    let _ = fs::remove_dir_all(&path);
    let recipient = Recipient::parse(&theirs.to_public().to_string()).expect("a recipient");
    let mut writer = BundleWriter::create(&path, &[recipient]).expect("a bundle");
    writer.add("a/b", &mut &b"content"[..]).expect("a file");
    writer.finish().expect("a whole bundle");
    let key = age::decrypt(&theirs, &fs::read(path.join("keys/x25519.age")).expect("a key file")).expect("the content key");
    let marker = fs::read_to_string(path.join("coffer.bundle")).expect("a marker");
    let digits = marker.split("id ").nth(1).expect("an id").trim();
    let id = std::array::from_fn(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hex"));
    Sealed { path, identity: [identity], key, id }
});

fuzz_target!(|input: (u8, &[u8])| {
    let (part, bytes) = (["manifest", "keys/recipients", "keys/x25519.age", "coffer.bundle"][usize::from(input.0 % 4)], input.1);
    let sealed = &*SEALED;
    let content = match part {
        "manifest" => seal("stream", part, bytes),
        "keys/recipients" => seal("recipients", part, bytes),
        _ => bytes.to_vec(),
    };
    let (path, mac) = (sealed.path.join(part), sealed.path.join("keys/mac"));
    let (before, mac_before) = (fs::read(&path).expect("there"), fs::read(&mac).expect("there"));
    fs::write(&path, &content).expect("written");
    fs::write(&mac, mac_of()).expect("written");
    if let Ok(bundle) = Bundle::open(&sealed.path, &sealed.identity) {
        for (name, size) in bundle.files() {
            let _ = bundle.file(&name).expect("listed").read_exact_at(0, &mut vec![0; size.min(64) as usize]);
        }
    }
    fs::write(&path, before).expect("written");
    fs::write(&mac, mac_before).expect("written");
});

/// A stream with this content, as only somebody with the key can make.
fn seal(purpose: &str, part: &str, content: &[u8]) -> Vec<u8> {
    let aad = [b"coffer-bundle 1", &SEALED.id[..], part.as_bytes()].concat();
    floe::seal(&derive(purpose), &aad, 4096, content).expect("sealed")
}

fn derive(purpose: &str) -> [u8; 32] {
    hmac(&SEALED.key, format!("coffer-bundle 1 {purpose}\u{1}").as_bytes())
}

fn mac_of() -> [u8; 32] {
    let mut data = SEALED.id.to_vec();
    for name in ["recipients", "x25519.age"] {
        let bytes = fs::read(SEALED.path.join("keys").join(name)).expect("there");
        for part in [name.as_bytes(), &bytes] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part);
        }
    }
    hmac(&derive("keys"), &data)
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha384>::new_from_slice(key).expect("any length");
    mac.update(data);
    mac.finalize().into_bytes()[..32].try_into().expect("48 bytes")
}
