//! Signed models: what is verified is what is used.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use coffer_evidence::signature::{Ignored, Signature, SignatureChecked, SignatureError, Signer, Statement, Trust};
use coffer_seal::{
    Identity, Recipient,
    bundle::{Bundle, seal_path},
    signing::SigningKey,
};
use coffer_store::{
    FileSet, Model, StoreError, open_files,
    signed::{Look, files, statement},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn scribe() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m")
}

/// A copy of the demo model that a test may break.
fn copy(dir: &TempDir) -> PathBuf {
    let to = dir.path().join("copy");
    fs::create_dir_all(to.join("more/deep")).unwrap();
    for entry in fs::read_dir(scribe()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    fs::write(to.join("more/deep/notes"), "notes").unwrap();
    fs::write(to.join("more/empty"), "").unwrap();
    to
}

fn look<'a>(identities: &'a [Identity], ignored: &'a Ignored) -> Look<'a> {
    Look { identities, ignored, ignore_unsigned: false, threads: 2 }
}

fn stated(path: &Path, identities: &[Identity], ignored: &[&str]) -> Statement {
    statement(path, &look(identities, &Ignored::new(ignored.iter().copied())), &mut |_, _| ()).unwrap()
}

/// Signs with a new key, and verifies with it.
fn signed(statement: &Statement) -> SignatureChecked {
    let key = SigningKey::generate().unwrap();
    let trust = Trust::Key(key.verifying_key().unwrap());
    let file = Signer::new(key, Vec::new()).unwrap().sign(statement).unwrap();
    Signature::parse(file.as_bytes()).unwrap().verify(&trust).unwrap()
}

fn checked(path: &Path, identities: &[Identity], signed: &SignatureChecked) -> Result<FileSet, StoreError> {
    files(path, &look(identities, &Ignored::new([])), signed, &mut |_, _| ())
}

fn open_signed(path: &Path, identities: &[Identity], signed: &SignatureChecked) -> Result<Model, StoreError> {
    open_files(path, checked(path, identities, signed)?)
}

#[track_caller]
fn refused(outcome: Result<FileSet, StoreError>, expected: &str) {
    let error = outcome.err().expect("refused");
    assert!(matches!(error, StoreError::Signature(SignatureError::Differs(_))), "{error}");
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn a_directory_is_what_was_signed_or_refused() {
    let dir = TempDir::new().unwrap();
    let model = copy(&dir);
    let statement = stated(&model, &[], &[]);
    let signed = signed(&statement);
    assert!(statement.files().contains_key("more/deep/notes") && statement.files().contains_key("more/empty"));
    let (mut last, mut of) = (0, 0);
    files(&model, &look(&[], &Ignored::new([])), &signed, &mut |done, total| (last, of) = (done, total)).unwrap();
    assert!(last == of && of > 1 << 20, "{last} of {of}");

    fs::write(model.join("more/deep/notes"), "noted").unwrap();
    refused(checked(&model, &[], &signed), "`more/deep/notes` differs");
    fs::remove_file(model.join("more/deep/notes")).unwrap();
    refused(checked(&model, &[], &signed), "`more/deep/notes` is missing");
    fs::write(model.join("more/deep/notes"), "notes").unwrap();
    fs::create_dir(model.join(".git")).unwrap();
    fs::write(model.join(".git/config"), "").unwrap();
    checked(&model, &[], &signed).unwrap();
    fs::write(model.join("more/.git"), "").unwrap();
    refused(checked(&model, &[], &signed), "`more/.git` was not signed");
    let nothing = Ignored::new([]);
    let lenient = Look { ignore_unsigned: true, ..look(&[], &nothing) };
    files(&model, &lenient, &signed, &mut |_, _| ()).unwrap();
    std::os::unix::fs::symlink("config.json", model.join("link")).unwrap();
    assert!(checked(&model, &[], &signed).err().unwrap().to_string().contains("link: a link, or no file"));
}

#[test]
fn a_file_changed_after_it_was_verified_is_not_used() {
    let dir = TempDir::new().unwrap();
    let model = copy(&dir);
    let signed = signed(&stated(&model, &[], &[]));
    let opened = open_signed(&model, &[], &signed).unwrap();
    let plain = coffer_store::open(&model, &[]).unwrap();
    assert_eq!(opened.weights_digest().unwrap(), plain.weights_digest().unwrap());
    // Both files are open; the last byte changes in place.
    let weights = model.join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&weights).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"\x55", fs::metadata(&weights).unwrap().len() - 1).unwrap();
    assert!(plain.weights_digest().is_ok());
    let error = opened.weights_digest().unwrap_err().to_string();
    assert!(error.contains("model.safetensors: changed since its signature was verified"), "{error}");
}

#[test]
fn what_was_not_signed_is_not_used() {
    let dir = TempDir::new().unwrap();
    let model = copy(&dir);
    let without = signed(&stated(&model, &[], &["config.json"]));
    let error = open_signed(&model, &[], &without).err().unwrap();
    assert!(error.to_string().contains("neither config.json nor a GGUF file"), "{error}");
    let tokenizer = signed(&stated(&model, &[], &["tokenizer.json"]));
    assert!(open_signed(&model, &[], &tokenizer).unwrap().tokenizer.is_none());
}

#[test]
fn a_sealed_model_has_the_signature_of_its_content() {
    let dir = TempDir::new().unwrap();
    let (model, bundle) = (copy(&dir), dir.path().join("sealed"));
    let identities = [Identity::generate()];
    let recipients = [Recipient::parse(&identities[0].recipient().unwrap()).unwrap()];
    seal_path(&model, &bundle, &recipients, &mut |_, _| ()).unwrap();
    let plain = stated(&model, &[], &[]);
    assert_eq!(stated(&bundle, &identities, &[]).files(), plain.files());
    let signed = signed(&plain);
    let opened = open_signed(&bundle, &identities, &signed).unwrap();
    assert_eq!(opened.weights_digest().unwrap(), coffer_store::open(&model, &[]).unwrap().weights_digest().unwrap());

    // Anybody can seal another model for the same recipients: that is what the signature is for.
    fs::write(model.join("config.json"), fs::read_to_string(model.join("config.json")).unwrap() + " ").unwrap();
    let other = dir.path().join("other");
    seal_path(&model, &other, &recipients, &mut |_, _| ()).unwrap();
    assert!(Bundle::open(&other, &identities).is_ok());
    refused(checked(&other, &identities, &signed), "`config.json` differs");
}

#[test]
fn one_file_by_whatever_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.gguf");
    fs::write(&path, "GGUF").unwrap();
    let statement = stated(&path, &[], &[]);
    assert_eq!((statement.model(), statement.files().keys().map(String::as_str).collect()), ("a.gguf", vec!["."]));
    let signed = signed(&statement);
    let renamed = dir.path().join("b.gguf");
    fs::rename(&path, &renamed).unwrap();
    assert_eq!(checked(&renamed, &[], &signed).unwrap().list(), [("b.gguf".to_owned(), 4)]);
    fs::write(&renamed, "GGUG").unwrap();
    refused(checked(&renamed, &[], &signed), "`b.gguf` differs");
}
