//! Signing and verifying as a user types it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, Run, asset, copy, ok, run};
use std::{fs, path::Path, process::Command};

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

/// A signing key and its public half.
fn maker(folder: &Folder) -> (String, String) {
    let key = folder.path("maker.pem");
    ok(&["keygen", "--signing", "-o", &key]);
    (key.clone(), key + ".pub")
}

#[test]
fn exec_shows_only_what_was_signed() {
    let folder = Folder::new();
    let (maker, public) = maker(&folder);
    let (key, bundle, plain) = (folder.path("key"), folder.path("b"), folder.path("plain"));
    let recipient = ok(&["keygen", "-o", &key]);
    let seal = |to: &str| ok(&["seal", &plain, "-o", to, "--recipient", recipient.trim()]);
    fs::create_dir(&plain).unwrap();
    folder.write("plain/model.bin", "weights".repeat(100_000));
    folder.write("plain/.gitignore", "never signed");
    seal(&bundle);
    let exec = |bundle: &str, more: &[&str]| {
        let list = ["--", "sh", "-c", "ls -A \"$1\" && cat \"$1/model.bin\"", "sh", "{}/"];
        run(&[&["exec", bundle, "-i", &key, "--require-signature", &public], more, &list].concat())
    };
    refused(&exec(&bundle, &[]), 2, "no signature beside it");
    ok(&["sign", &bundle, "-i", &key, "--key", &maker, "-o", &folder.path("b.sig")]);
    let shown = exec(&bundle, &[]);
    // What the signature does not cover is not there.
    assert_eq!((shown.code, shown.stdout), (0, "model.bin\n".to_owned() + &"weights".repeat(100_000)), "{}", shown.stderr);

    folder.write("plain/model.bin", "forged");
    let forged = folder.path("f");
    seal(&forged);
    let run = exec(&forged, &["--signature", &folder.path("b.sig")]);
    refused(&run, 3, "`model.bin` differs");
    assert_eq!(run.stdout, "");
}

#[test]
fn merge_takes_only_models_and_adapters_that_are_signed() {
    let folder = Folder::new();
    let (maker, public) = maker(&folder);
    let (model, adapter) = (copy(&folder, "model"), folder.path("adapter"));
    let copied = Command::new("cp").args(["-r", &asset("models/scribe-8m-verse-lora"), &adapter]).status().unwrap();
    assert!(copied.success());
    let recipe = "merge_method: linear\nmodels:\n  - model: model+adapter\n    parameters: {weight: 1}\n";
    let recipe = folder.write("recipe.yml", recipe);
    let merge =
        |more: &[&str]| run(&[&["merge", &recipe, "-o", &folder.path("out"), "--require-signature", &public], more].concat());
    let sign = |what: &str| ok(&["sign", what, "--key", &maker, "-o", &format!("{what}/model.sig")]);
    refused(&merge(&["--dry-run"]), 2, "model: no signature beside it");
    sign(&model);
    refused(&merge(&["--dry-run"]), 2, "adapter: no signature beside it");
    sign(&adapter);
    assert_eq!(merge(&["--dry-run"]).code, 0);
    assert_eq!(merge(&[]).code, 0);
    let config = fs::read_to_string(format!("{adapter}/adapter_config.json")).unwrap();
    fs::write(format!("{adapter}/adapter_config.json"), config + " ").unwrap();
    refused(&merge(&["--dry-run"]), 3, "`adapter_config.json` differs");
    let text = folder.write("text", "It was a dark and stormy night; the rain fell in torrents.");
    let eval = ["eval", &model, "--text", &text, "--max-tokens", "8", "--require-signature", &public];
    refused(&run(&[&eval[..], &["--adapter", &adapter]].concat()), 3, "`adapter_config.json` differs");
    sign(&adapter);
    ok(&[&eval[..], &["--adapter", &adapter, "--against", &model]].concat());
    let other = copy(&folder, "other");
    refused(&run(&[&eval[..], &["--against", &other]].concat()), 2, "other: no signature beside it");
}

#[test]
fn assess_hands_passphrase_and_demand_on() {
    let folder = Folder::new();
    let (maker, public) = maker(&folder);
    let (word, bundle, out) = (folder.write("word", "correct horse\n"), folder.path("b"), folder.path("report"));
    let model = copy(&folder, "model");
    ok(&["seal", &model, "-o", &bundle, "--passphrase-file", &word]);
    ok(&["sign", &model, "--key", &maker, "-o", &format!("{bundle}.sig")]);
    fs::copy(format!("{bundle}.sig"), format!("{model}.sig")).unwrap();
    let text = folder.write("text", "It was a dark and stormy night; the rain fell in torrents.");
    // The passphrase comes through a pipe, which gives it but once.
    let script = "cat \"$WORD\" | \"$0\" \"$@\" --passphrase-file /dev/stdin";
    let assess = ["assess", &bundle, "--variant", &model, "--text", &text, "--max-tokens", "8", "-o", &out, "--json"];
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_coffer")])
        .args(assess)
        .args(["--require-signature", &public])
        .env("WORD", &word);
    let done = shell.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report = String::from_utf8(done.stdout).unwrap();
    assert!(report.contains("decode_tokens_per_second"), "{report}");
    let mut written: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    written.sort();
    assert_eq!(written, ["report.html", "report.json"]);
    fs::remove_file(format!("{bundle}.sig")).unwrap();
    refused(&run(&[&assess[..], &["--passphrase-file", &word, "--require-signature", &public]].concat()), 2, "no signature");
}
