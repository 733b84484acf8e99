//! Signing and verifying as a user types it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod coffer;

use coffer::{Folder, Run, asset, ok, run};
use std::{fs, path::Path};

/// A copy of the project's model, to be spoilt.
fn copy(folder: &Folder, name: &str) -> String {
    let to = folder.path(name);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(asset("models/scribe-8m")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, Path::new(&to).join(path.file_name().unwrap())).unwrap();
    }
    to
}

#[track_caller]
fn refused(run: &Run, code: i32, says: &str) {
    assert_eq!(run.code, code, "{}", run.stderr);
    assert!(run.stderr.contains(says), "{says:?} is not in: {}", run.stderr);
}

#[test]
fn a_signed_model_is_verified_and_a_changed_one_refused() {
    let folder = Folder::new();
    let (model, key) = (copy(&folder, "model"), folder.path("key.pem"));
    let public = ok(&["keygen", "--signing", "-o", &key]);
    assert_eq!(public, fs::read_to_string(format!("{key}.pub")).unwrap());
    refused(&run(&["keygen", "--signing", "-o", &key]), 1, "exists already");
    let (sig, public) = (format!("{model}/model.sig"), format!("{key}.pub"));
    ok(&["sign", &model, "--key", &key, "-o", &sig]);
    let verify = ["verify", &model, "--signature", &sig, "--public-key", &public];
    let json: serde_json::Value = serde_json::from_str(&ok(&[&verify[..], &["--json"]].concat())).unwrap();
    assert_eq!((&json["verified"], &json["model"]), (&true.into(), &"model".into()));

    // The signature is found in the directory, and what the model answers is what it answers without it.
    let say = ["--prompt", "It was", "-n", "8", "--threads", "1"];
    let demanded = ok(&[&["generate", &model, "--require-signature", &public], &say[..]].concat());
    assert_eq!(demanded, ok(&[&["generate", &model], &say[..]].concat()));

    folder.write("model/extra", "");
    refused(&run(&verify), 3, "`extra` was not signed");
    ok(&[&verify[..], &["--ignore-unsigned-files"]].concat());
    ok(&[&verify[..], &["--ignore-paths", "extra"]].concat());
    fs::remove_file(format!("{model}/extra")).unwrap();
    let config = fs::read_to_string(format!("{model}/config.json")).unwrap();
    fs::write(format!("{model}/config.json"), config + " ").unwrap();
    refused(&run(&verify), 3, "`config.json` differs");
    refused(&run(&[&["generate", &model, "--require-signature", &public], &say[..]].concat()), 3, "`config.json` differs");
    let other = folder.path("other.pem");
    ok(&["keygen", "--signing", "-o", &other]);
    refused(&run(&["verify", &model, "--signature", &sig, "--public-key", &format!("{other}.pub")]), 3, "made by the key");
    fs::remove_file(&sig).unwrap();
    refused(&run(&["inspect", &model, "--require-signature", &public]), 2, "no signature beside it");
}

#[test]
fn a_sealed_model_is_signed_verified_and_opened_only_so() {
    let folder = Folder::new();
    let (age, key, bundle, sig) = (folder.path("age"), folder.path("key.pem"), folder.path("b"), folder.path("b.sig"));
    let recipient = ok(&["keygen", "-o", &age]);
    ok(&["keygen", "--signing", "-o", &key]);
    ok(&["seal", &asset("models/scribe-8m"), "-o", &bundle, "--recipient", recipient.trim()]);
    ok(&["sign", &bundle, "--identity", &age, "--key", &key, "-o", &sig]);
    let public = format!("{key}.pub");
    // The signature is over the content: plain or sealed is the same model.
    ok(&["verify", &asset("models/scribe-8m"), "--signature", &sig, "--public-key", &public]);
    ok(&["verify", &bundle, "--identity", &age, "--signature", &sig, "--public-key", &public]);
    let out = folder.path("out");
    ok(&["open", &bundle, "--identity", &age, "--require-signature", &public, "-o", &out]);
    ok(&["verify", &out, "--signature", &sig, "--public-key", &public]);

    let forged = copy(&folder, "forged");
    fs::write(format!("{forged}/config.json"), "{}").unwrap();
    ok(&["seal", &forged, "-o", &folder.path("f"), "--recipient", recipient.trim()]);
    let open = ["open", &folder.path("f"), "--identity", &age, "--require-signature", &public, "--signature", &sig];
    let out = folder.path("out2");
    refused(&run(&[&open[..], &["-o", &out]].concat()), 3, "`config.json` differs");
    assert!(!Path::new(&out).exists());
    assert!(fs::read_dir(folder.root()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with(".unverified")));
}
