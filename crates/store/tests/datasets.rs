//! Data sets, plain and sealed, give the same records.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use coffer_seal::{
    Identity, Recipient,
    bundle::{seal_data, seal_path},
};
use coffer_store::Dataset;
use std::{fs, path::Path};
use tempfile::TempDir;

/// Two files and the records in them, in order.
fn data(folder: &Path) -> Vec<String> {
    fs::create_dir(folder).unwrap();
    let jsonl: Vec<String> = (0..3000).map(|i| format!("{{\"n\": {i}, \"text\": \"{}\"}}", "ä".repeat(i % 200))).collect();
    fs::write(folder.join("a.jsonl"), jsonl.join("\r\n")).unwrap();
    fs::write(folder.join("b.txt"), format!("\n\none\n{}\n   \nthree", "two ".repeat(50_000))).unwrap();
    fs::write(folder.join("c.txt"), "\n").unwrap();
    [jsonl, vec!["one".into(), "two ".repeat(50_000), "three".into()]].concat()
}

fn sealed(source: &Path, out: &Path, with_index: bool) -> Identity {
    let identity = Identity::generate();
    let to = [Recipient::parse(&identity.recipient().unwrap()).unwrap()];
    let seal = if with_index { seal_data } else { seal_path };
    seal(source, out, &to, &mut |_, _| ()).unwrap();
    identity
}

#[test]
fn plain_and_sealed_data_have_the_same_records() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("data");
    let expected = data(&source);
    let (with, without) = (dir.path().join("with"), dir.path().join("without"));
    let keys = [sealed(&source, &with, true), sealed(&source, &without, false)];
    for path in [&source, &with, &without] {
        let dataset = Dataset::open(path, &keys).unwrap();
        assert_eq!(dataset.len(), expected.len() as u64);
        let counts: Vec<_> = dataset.files().iter().map(|file| (&*file.name, file.count())).collect();
        assert_eq!(counts, [("a.jsonl", 3000), ("b.txt", 3), ("c.txt", 0)]);
        for number in dataset.shuffled(1, 0).iter().step_by(7).chain(2995..3003) {
            assert!(*dataset.record(number).unwrap() == expected[number as usize].as_bytes(), "{number}");
        }
        let error = dataset.record(3003).unwrap_err().to_string();
        assert!(error.contains("no record 3003; it has 3003"), "{error}");
    }
}

#[test]
fn what_is_no_data_set() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.jsonl");
    fs::write(&file, "{}\nnot json\n").unwrap();
    let error = Dataset::open(&file, &[]).err().unwrap().to_string();
    assert!(error.contains("x.jsonl") && error.contains("line 2"), "{error}");
    fs::write(dir.path().join("weights.bin"), "x").unwrap();
    let error = Dataset::open(&dir.path().join("weights.bin"), &[]).err().unwrap().to_string();
    assert!(error.contains("no JSONL"), "{error}");
}

#[test]
fn a_file_that_changed_is_noticed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.txt");
    fs::write(&file, "a\nb\nc\n").unwrap();
    let dataset = Dataset::open(&file, &[]).unwrap();
    fs::write(&file, "a\n\n\n\n\n\n").unwrap();
    assert!(dataset.record(2).unwrap_err().to_string().contains("changed since it was indexed"));
}
