//! Keys and recipients as a user types them: every kind, coming and going, and what a killed run leaves.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, asset, command, json, ok, run};
use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

/// A folder with `model.bin` of several segments, and a key.
fn start() -> (Folder, String, String) {
    let folder = Folder::new();
    let content: Vec<u8> = (0..1_500_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    folder.write("model.bin", content);
    let key = folder.path("key");
    let recipient = ok(&["keygen", "-o", &key]).trim().to_owned();
    (folder, key, recipient)
}

/// The bundle opens with these flags and holds what was sealed.
fn opens(folder: &Folder, bundle: &str, with: &[&str]) -> bool {
    let out = folder.path("opened");
    let opened = run(&[&["open", bundle, "-o", &out], with].concat()).code == 0;
    if opened {
        assert!(fs::read(format!("{out}/model.bin")).unwrap() == fs::read(folder.path("model.bin")).unwrap());
        fs::remove_dir_all(out).unwrap();
    }
    opened
}

#[test]
fn recipients_of_every_kind_come_and_go() {
    let (folder, key, recipient) = start();
    let (model, bundle, quantum, word) =
        (folder.path("model.bin"), folder.path("b"), folder.path("pq"), folder.write("word", "correct horse\n"));
    let quantum_recipient = ok(&["keygen", "--post-quantum", "-o", &quantum]);
    let quantum_recipient = quantum_recipient.trim();
    assert!(quantum_recipient.starts_with("age1pq1"));
    ok(&["seal", &model, "-o", &bundle, "-r", &recipient, "-r", quantum_recipient, "--passphrase-file", &word]);
    for with in [["--identity", &key], ["--identity", &quantum], ["--passphrase-file", &word]] {
        assert!(opens(&folder, &bundle, &with), "{with:?}");
    }
    let outside = json(&ok(&["inspect", &bundle, "--json"]));
    assert_eq!(outside["bundle"]["kinds"], serde_json::json!({"X25519": 1, "mlkem768x25519": 1, "scrypt": 1}));
    assert!(outside["bundle"].get("files").is_none());
    assert!(ok(&["inspect", &bundle]).contains("1 X25519, 1 mlkem768x25519, 1 scrypt"));
    let inside = json(&ok(&["inspect", &bundle, "--identity", &key, "--json"]));
    assert_eq!(inside["bundle"]["recipients"][0]["key"], recipient.as_str());
    assert_eq!((&inside["bundle"]["files"][0]["name"], &inside["bundle"]["epoch"]), (&"model.bin".into(), &1.into()));

    let removed = run(&["rekey", &bundle, "-i", &key, "--remove", quantum_recipient, "--remove", "passphrase"]);
    assert_eq!((removed.code, removed.stdout.trim()), (0, &*recipient));
    assert!(removed.stderr.contains("can still read this content"), "{}", removed.stderr);
    assert!(!opens(&folder, &bundle, &["-i", &quantum]) && !opens(&folder, &bundle, &["--passphrase-file", &word]));
    ok(&["rekey", &bundle, "-i", &key, "--add", quantum_recipient, "--rotate"]);
    assert!(opens(&folder, &bundle, &["-i", &quantum]));
    assert_eq!(run(&["rekey", &bundle, "-i", &key]).code, 2);
    assert_eq!(run(&["open", &bundle, "-o", &folder.path("x")]).code, 2);
}

#[test]
fn inspect_shows_the_bundle_and_the_model_in_it() {
    let (folder, key, recipient) = start();
    let bundle = folder.path("b");
    ok(&["seal", &asset("models/scribe-8m"), "-o", &bundle, "-r", &recipient]);
    let summary = json(&ok(&["inspect", &bundle, "-i", &key, "--json"]));
    assert_eq!((&summary["architecture"], &summary["sealed"]), (&"llama".into(), &true.into()));
    assert!(summary["bundle"]["files"].as_array().unwrap().iter().any(|file| file["name"] == "config.json"));
    assert!(ok(&["inspect", &bundle, "-i", &key]).contains("architecture"));
    let stranger = folder.path("stranger");
    ok(&["keygen", "-o", &stranger]);
    assert_eq!(run(&["inspect", &bundle, "-i", &stranger]).code, 1);
}

#[test]
fn a_recovery_recipient_by_policy_stays() {
    let (folder, key, recipient) = start();
    let (bundle, saved) = (folder.path("b"), folder.path("saved"));
    let recovery = ok(&["keygen", "-o", &saved]);
    folder.write("coffer.toml", format!("[seal]\nrecovery = \"{}\"\n", recovery.trim()));
    let sealed = command(&["seal", "model.bin", "-o", "b", "-r", &recipient]).current_dir(folder.root()).output().unwrap();
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    assert!(opens(&folder, &bundle, &["-i", &saved]));
    let removed = run(&["rekey", &bundle, "-i", &key, "--remove", recovery.trim()]);
    assert!(removed.code == 1 && removed.stderr.contains("--remove-recovery"), "{}", removed.stderr);
    assert!(ok(&["inspect", &bundle, "-i", &key]).contains("(recovery)"));
    ok(&["rekey", &bundle, "-i", &key, "--remove", recovery.trim(), "--remove-recovery"]);
    assert!(!opens(&folder, &bundle, &["-i", &saved]));
}

#[test]
fn an_older_epoch_is_refused_with_code_3() {
    let (folder, key, recipient) = start();
    let (bundle, old) = (folder.path("b"), folder.path("old"));
    ok(&["seal", &folder.path("model.bin"), "-o", &bundle, "-r", &recipient]);
    let copied = std::process::Command::new("cp").args(["-r", &bundle, &old]).status().unwrap();
    assert!(copied.success());
    ok(&["rekey", &bundle, "-i", &key, "--rotate"]);
    assert!(opens(&folder, &bundle, &["-i", &key]));
    let refused = run(&["open", &old, "-i", &key, "-o", &folder.path("x")]);
    assert!(refused.code == 3 && refused.stderr.contains("epoch 1") && refused.stderr.contains("epoch 2"), "{}", refused.stderr);
    assert!(opens(&folder, &old, &["-i", &key, "--allow-rollback"]));
}

/// A token without hardware: wraps by XOR with 0x55. It speaks the age plugin protocol (C2SP age-plugin.md).
const PLUGIN: &str = r#"#!/usr/bin/env python3
import base64, sys
read = lambda: sys.stdin.readline().rstrip("\n")
b64 = lambda data: base64.b64encode(data).decode().rstrip("=")

def receive():
    words, body = read().split(" ")[1:], ""
    while True:
        line = read()
        body += line
        if len(line) < 64:
            return words, base64.b64decode(body + "=" * (-len(body) % 4))

def send(words, body=b""):
    text = b64(body)
    lines = [text[i : i + 64] for i in range(0, len(text) + 1, 64)]
    sys.stdout.write("\n".join(["-> " + " ".join(words), *lines]) + "\n")
    sys.stdout.flush()

commands = []
while not commands or commands[-1][0][0] != "done":
    commands.append(receive())
flip = lambda data: bytes(byte ^ 0x55 for byte in data)
for words, body in commands:
    if "recipient-v1" in sys.argv[1] and words[0] == "wrap-file-key":
        send(["recipient-stanza", "0", "xor"], flip(body))
        receive()
    if "identity-v1" in sys.argv[1] and words[0] == "recipient-stanza" and words[2] == "xor":
        send(["msg"], b"touch your token")
        receive()
        send(["file-key", words[1]], flip(body))
        receive()
send(["done"])
"#;

#[test]
fn an_age_plugin_wraps_and_unwraps() {
    let (folder, key, recipient) = start();
    // Bech32 of nothing with the prefixes `age1xor` and `AGE-PLUGIN-XOR-`.
    let (plugin_recipient, plugin_key) = (bech32("age1xor"), bech32("age-plugin-xor-").to_uppercase());
    let (token, bundle) = (folder.write("token", plugin_key), folder.path("b"));
    let seal = ["seal", &folder.path("model.bin"), "-o", &bundle, "-r", &plugin_recipient, "-r", &recipient];
    let missing = run(&seal);
    assert!(missing.code == 1 && missing.stderr.contains("`age-plugin-xor`, which is not on the PATH"), "{}", missing.stderr);
    let program = folder.write("age-plugin-xor", PLUGIN);
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.root().display(), std::env::var("PATH").unwrap_or_default());
    if !std::process::Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return println!("skipped: no `python3`");
    }
    let with_plugin = |arguments: &[&str]| command(arguments).env("PATH", &path).output().unwrap();
    let sealed = with_plugin(&seal);
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    let opened = with_plugin(&["open", &bundle, "-i", &token, "-o", &folder.path("out")]);
    let told = String::from_utf8_lossy(&opened.stderr);
    assert!(opened.status.success() && told.contains("touch your token"), "{told}");
    // Without the program, another key still opens it, and the token's says what is missing.
    assert!(opens(&folder, &bundle, &["-i", &token, "-i", &key]));
    assert!(run(&["open", &bundle, "-i", &token, "-o", &folder.path("x")]).stderr.contains("age-plugin-xor"));
}

/// The checksum of BIP 173 over a prefix without data.
fn bech32(prefix: &str) -> String {
    const CHARS: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let high = prefix.bytes().map(|b| b >> 5);
    let low = prefix.bytes().map(|b| b & 31);
    let sum = high.chain([0]).chain(low).chain([0; 6]).fold(1u32, |sum, value| {
        let top = sum >> 25;
        let next = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
        (0..5).filter(|i| top >> i & 1 == 1).fold(next, |sum, i| sum ^ GENERATOR[i])
    }) ^ 1;
    let check = (0..6).map(|i| char::from(CHARS[(sum >> (5 * (5 - i)) & 31) as usize]));
    format!("{prefix}1{}", check.collect::<String>())
}

/// A short version of the interop check `kill-9`: whenever the process dies, the bundle opens, old or new, and the next run cleans up.
#[test]
fn a_killed_run_loses_nothing() {
    let (folder, key, recipient) = start();
    let (model, bundle, other) = (folder.path("model.bin"), folder.path("b"), folder.path("other"));
    let second = ok(&["keygen", "-o", &other]);
    ok(&["seal", &model, "-o", &bundle, "-r", &recipient]);
    let (sealing, opening) = (folder.path("s"), folder.path("o"));
    let runs: [&[&str]; 4] = [
        &["seal", &model, "-o", &sealing, "-r", &recipient],
        &["open", &bundle, "-i", &key, "-o", &opening],
        &["rekey", &bundle, "-i", &key, "--add", second.trim()],
        &["rekey", &bundle, "-i", &key, "--rotate"],
    ];
    let mut killed = 0;
    for (at, arguments) in runs.iter().cycle().take(12).enumerate() {
        let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3 + 7 * (at as u64 % 5)));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        assert!(opens(&folder, &bundle, &["-i", &key]), "kill {at}: {arguments:?}");
        for whole in [&sealing, &opening] {
            let _ = fs::remove_dir_all(whole);
        }
    }
    runs.iter().for_each(|arguments| drop(ok(arguments)));
    let left =
        fs::read_dir(folder.root()).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.count(), 0);
    println!("killed {killed} of 12 runs before they ended");
}
