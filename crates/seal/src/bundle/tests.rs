use super::{layout::ContentKey, *};
use crate::{Identity, Recipient};
use proptest::prelude::*;
use std::{fs, io::Write, path::Path, process::Command};
use zeroize::Zeroizing;

pub(super) fn recipient(identity: &Identity) -> Recipient {
    Recipient::parse(&identity.recipient().unwrap()).unwrap()
}

pub(super) fn quiet(_: u64, _: u64) {}

/// Seals `files` to a new identity.
fn sealed(folder: &Path, files: &[(&str, &[u8])]) -> (std::path::PathBuf, Identity) {
    let (path, identity) = (folder.join("m.coffer"), Identity::generate());
    let mut writer = BundleWriter::create(&path, &[recipient(&identity)]).unwrap();
    files.iter().for_each(|(name, content)| writer.add(name, &mut &content[..]).unwrap());
    writer.finish().unwrap();
    (path, identity)
}

pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn handles_cross_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Bundle>();
    check::<SealedFile>();
    check::<BundleError>();
    check::<Identity>();
    check::<Recipient>();
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model");
    fs::create_dir_all(source.join("sub/deep")).unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    for (name, content) in [("weights.bin", &big[..]), ("empty", b""), ("sub/deep/config.json", b"{}"), ("sub/a", b"x")] {
        fs::write(source.join(name), content).unwrap();
    }
    let (bundle, identity) = (folder.path().join("m.coffer"), Identity::generate());
    let mut last = (0, 0);
    seal_path(&source, &bundle, &[recipient(&identity)], &mut |done, total| last = (done, total)).unwrap();
    assert_eq!(last, (3_000_003, 3_000_003));
    assert_eq!(names_in(&bundle), ["coffer.bundle", "data", "keys", "manifest"]);
    assert_eq!(names_in(&bundle.join("keys")), ["mac", "recipients", "x25519.age"]);
    let opened = Bundle::open(&bundle, &[identity]).unwrap();
    let names: Vec<_> = opened.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["empty", "sub/a", "sub/deep/config.json", "weights.bin"]);
    assert_eq!(opened.epoch(), 1);
    // Computed with Python: hashlib.sha256(b"{}").hexdigest()
    let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(hex::encode(opened.sha256("sub/deep/config.json").unwrap()), digest);
    opened.verify(&mut quiet).unwrap();
    let out = folder.path().join("out");
    opened.extract(&out, &mut |done, total| last = (done, total)).unwrap();
    assert_eq!(last, (3_000_003, 3_000_003));
    assert_eq!(fs::read(out.join("weights.bin")).unwrap(), big);
    assert_eq!(fs::read(out.join("sub/deep/config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(out.join("empty")).unwrap(), b"");
    assert!(matches!(opened.extract(&out, &mut quiet), Err(BundleError::Exists(_))));
    assert_eq!(names_in(folder.path()), ["m.coffer", "model", "out"]);
}

#[test]
fn nothing_readable_is_left_outside() {
    let folder = tempfile::tempdir().unwrap();
    let marker = b"a name or a weight that must not show";
    let (path, _) = sealed(folder.path(), &[("a name or a weight that must not show", marker)]);
    for part in ["coffer.bundle", "data", "manifest", "keys/mac", "keys/recipients", "keys/x25519.age"] {
        let bytes = fs::read(path.join(part)).unwrap();
        assert!(!bytes.windows(12).any(|w| w == b"name or a we"), "{part}");
    }
}

#[test]
fn sizes_are_padded() {
    let folder = tempfile::tempdir().unwrap();
    let length = |n: usize| {
        let inner = folder.path().join(n.to_string());
        fs::create_dir(&inner).unwrap();
        fs::metadata(sealed(&inner, &[("f", &vec![1; n])]).0.join("data")).unwrap().len()
    };
    assert_eq!(length(1), length(1024));
    assert_eq!(length(500_001), length(507_904));
}

#[test]
fn one_file_keeps_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (file, bundle, identity) = (folder.path().join("m.gguf"), folder.path().join("b"), Identity::generate());
    fs::write(&file, b"GGUF").unwrap();
    seal_path(&file, &bundle, &[recipient(&identity)], &mut quiet).unwrap();
    assert_eq!(Bundle::open(&bundle, &[identity]).unwrap().files(), [("m.gguf".to_owned(), 4)]);
}

#[test]
fn streams_are_ended_or_the_bundle_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = (folder.path().join("b"), Identity::generate());
    let mut file = BundleWriter::create(&path, &[recipient(&identity)]).unwrap().stream("made.bin").unwrap();
    (0..100).for_each(|i| file.write_all(&[i; 10_000]).unwrap());
    let mut writer = file.end();
    writer.add("then", &mut &b"x"[..]).unwrap();
    writer.finish().unwrap();
    let bundle = Bundle::open(&path, &[identity]).unwrap();
    let mut bytes = vec![0; 20_000];
    bundle.file("made.bin").unwrap().read_exact_at(490_000, &mut bytes).unwrap();
    assert_eq!(bytes, [[49; 10_000], [50; 10_000]].concat());
    bundle.verify(&mut quiet).unwrap();

    let writer = BundleWriter::create(&folder.path().join("cut"), &[recipient(&Identity::generate())]).unwrap();
    let mut cut = writer.stream("made.bin").unwrap();
    cut.write_all(b"half").unwrap();
    drop(cut);
    assert_eq!(names_in(folder.path()), ["b"]);
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BundleWriter::create(&folder.path().join("b"), &[recipient(&Identity::generate())]).unwrap();
    assert!(writer.add("f", &mut Broken).unwrap_err().to_string().contains("the disk is gone"));
    drop(writer);
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn what_cannot_be_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out, to) = (folder.path().join("s"), folder.path().join("b"), [recipient(&Identity::generate())]);
    let refused = |part: &str| {
        let error = seal_path(&source, &out, &to, &mut quiet).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("No such file");
    fs::create_dir(&source).unwrap();
    refused("no file in it");
    fs::write(source.join("a:b"), b"").unwrap();
    refused("contains ':'");
    fs::remove_file(source.join("a:b")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", source.join("link")).unwrap();
    refused("links are not sealed");
    fs::remove_file(source.join("link")).unwrap();
    fs::write(source.join("f"), b"").unwrap();
    fs::write(&out, b"in the way").unwrap();
    refused("exists already");
    assert!(matches!(BundleWriter::create(&folder.path().join("x"), &[]), Err(BundleError::Recipients(_))));
    let twice = ["a", "b"].map(|p| Recipient::passphrase(p.into()));
    assert!(matches!(BundleWriter::create(&folder.path().join("x"), &twice), Err(BundleError::Recipients(_))));
    assert_eq!(names_in(folder.path()), ["b", "s"]);
}

#[test]
fn a_stranger_is_told_who_could() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sealed(folder.path(), &[("f", b"x")]);
    let error = Bundle::open(&path, &[Identity::generate(), Identity::generate()]).err().unwrap().to_string();
    assert!(error.contains("none of the 2 identities") && error.contains("sealed to 1 X25519"), "{error}");
    assert_eq!(recipients(&path).unwrap(), [("X25519".to_owned(), 1)].into());
}

#[test]
fn a_passphrase_opens_beside_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("b"), Identity::generate());
    let to = [recipient(&key), Recipient::passphrase("correct horse".into())];
    let mut writer = BundleWriter::create(&path, &to).unwrap();
    writer.add("f", &mut &b"x"[..]).unwrap();
    writer.finish().unwrap();
    Bundle::open(&path, &[Identity::passphrase("correct horse".into())]).unwrap();
    let error = Bundle::open(&path, &[Identity::passphrase("battery staple".into())]).err().unwrap();
    assert!(error.to_string().contains("1 X25519, 1 scrypt"), "{error}");
    Bundle::open(&path, &[key]).unwrap();
}

#[test]
fn not_a_bundle_or_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = sealed(folder.path(), &[("f", b"x")]);
    let identities = [identity];
    assert!(Bundle::is_bundle(&path) && !Bundle::is_bundle(folder.path()) && !Bundle::is_bundle(Path::new("/nowhere")));
    assert!(matches!(Bundle::open(folder.path(), &identities), Err(BundleError::NotABundle { .. })));
    fs::write(path.join("coffer.bundle"), "coffer-bundle 2\nsomething else\n").unwrap();
    assert!(Bundle::is_bundle(&path));
    let error = Bundle::open(&path, &identities).err().unwrap();
    assert!(matches!(&error, BundleError::Version { found, .. } if found == "2"), "{error}");
}

#[test]
fn errors_name_the_part() {
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = sealed(folder.path(), &[("f", &[9; 600_000])]);
    let identities = [identity];
    let data = fs::read(path.join("data")).unwrap();
    let mut bad = data.clone();
    bad[400_000] ^= 1;
    fs::write(path.join("data"), bad).unwrap();
    let file = Bundle::open(&path, &identities).unwrap().file("f").unwrap();
    file.read_exact_at(0, &mut [0; 1000]).unwrap();
    let error = file.read_exact_at(0, &mut vec![0; 600_000]).unwrap_err().to_string();
    assert!(error.contains("data, segment 1, was changed"), "{error}");
    fs::write(path.join("data"), &data[..data.len() - 1]).unwrap();
    let error = Bundle::open(&path, &identities).err().unwrap().to_string();
    assert!(error.contains("data (it has") && error.contains("is cut"), "{error}");
    fs::write(path.join("data"), &data).unwrap();
    let bundle = Bundle::open(&path, &identities).unwrap();
    assert!(matches!(bundle.file("g"), Err(BundleError::NoFile { .. })));
    let file = bundle.file("f").unwrap();
    for (at, len) in [(600_000, 1), (u64::MAX, 1), (0, 600_001)] {
        assert!(matches!(file.read_exact_at(at, &mut vec![0; len]), Err(BundleError::OutOfRange { .. })));
    }
    file.read_exact_at(600_000, &mut []).unwrap();
    fs::remove_file(path.join("data")).unwrap();
    assert!(matches!(Bundle::open(&path, &identities), Err(BundleError::Missing { part, .. }) if part == "data"));
}

#[test]
fn the_age_command_opens_key_files() {
    if Command::new("age").arg("--version").output().is_err() {
        return println!("skipped: no `age` command");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = (folder.path().join("b"), Identity::generate());
    let key = ContentKey::new(Zeroizing::new([42; 32]));
    BundleWriter::create_with(&path, &[recipient(&identity)], key, [0; 16], 4096).unwrap().finish().unwrap();
    let key_file = folder.path().join("key");
    identity.write(&key_file).unwrap();
    let output = Command::new("age").arg("-d").arg("-i").arg(&key_file).arg(path.join("keys/x25519.age")).output().unwrap();
    assert_eq!(output.stdout, [42; 32], "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reader_written_from_the_specification_agrees() {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import cryptography"]).is_ok_and(|output| output.status.success()) {
        return println!("skipped: no `python3` with `cryptography`");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = (folder.path().join("b"), Identity::generate());
    let key = ContentKey::new(Zeroizing::new([42; 32]));
    let mut writer = BundleWriter::create_with(&path, &[recipient(&identity)], key, [9; 16], 4096).unwrap();
    writer.add("dir/weights", &mut &[7; 30_000][..]).unwrap();
    writer.add("späße", &mut &b"{}"[..]).unwrap();
    writer.add_records("lines.txt", records::RecordKind::Lines, &mut &b"a\nb\n"[..]).unwrap();
    writer.finish().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_bundle.py");
    let output = python(&[script, path.to_str().unwrap(), &"2a".repeat(32)]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = Bundle::open(&path, &[identity]).unwrap();
    let members = bundle.members().iter().map(|member| format!("{}\n", member.key));
    let files =
        bundle.files().into_iter().map(|(name, size)| format!("{size} {} {name}\n", hex::encode(bundle.sha256(&name).unwrap())));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), members.chain(files).collect::<String>());
}

/// Row by row, small reads in sequence decrypt each segment once; a read at random, the segments under it and no other.
#[test]
fn reading_touches_few_segments() {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..2_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (path, identity) = sealed(folder.path(), &[("first", b"abc"), ("f", &content)]);
    let identities = [identity];
    let opened = |read: &dyn Fn(&SealedFile)| {
        let bundle = Bundle::open(&path, &identities).unwrap();
        read(&bundle.file("f").unwrap());
        bundle.segments_opened()
    };
    let rows = opened(&|file| {
        let mut row = [0; 64];
        for at in (0..content.len() - 64).step_by(64) {
            file.read_exact_at(at as u64, &mut row).unwrap();
            assert_eq!(row, content[at..at + 64]);
        }
    });
    assert_eq!(rows, 31, "8 MB in segments of 256 KiB");
    assert_eq!(opened(&|_| ()), 0);
    assert_eq!(opened(&|file| file.read_exact_at(4_000_000, &mut [0; 100]).unwrap()), 1);
    assert_eq!(opened(&|file| file.read_exact_at(4_000_000, &mut vec![0; 600_000]).unwrap()), 3);
}

/// 2048 bytes need no padding and are 32 segments of 64 bytes: the last is full, and none follows.
#[test]
fn content_that_fills_its_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (path, identity) = (folder.path().join("b"), Identity::generate());
    let to = [recipient(&identity)];
    let mut writer = BundleWriter::create_with(&path, &to, ContentKey::generate().unwrap(), [3; 16], 64 + 32).unwrap();
    writer.add("f", &mut &[7; 2048][..]).unwrap();
    writer.finish().unwrap();
    Bundle::open(&path, &[identity]).unwrap().verify(&mut quiet).unwrap();
}

/// Files begin and end anywhere in what the threads decrypt at a time.
#[test]
fn extracts_what_is_longer_than_a_piece() {
    let folder = tempfile::tempdir().unwrap();
    let content = |seed: u32, len: u32| (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13 ^ seed) as u8).collect::<Vec<u8>>();
    let files = [content(1, 3_000_000), Vec::new(), content(2, 1), content(3, 7_000_000), Vec::new()];
    let names = ["a", "b", "c/d", "e", "f"];
    let (path, identity) = sealed(folder.path(), &std::array::from_fn::<_, 5, _>(|i| (names[i], &files[i][..])));
    let out = folder.path().join("out");
    let bundle = Bundle::open(&path, &[identity]).unwrap();
    let mut told = Vec::new();
    bundle.extract(&out, &mut |done, total| told.push((done, total))).unwrap();
    names.iter().zip(&files).for_each(|(name, content)| assert!(fs::read(out.join(name)).unwrap() == *content, "{name}"));
    assert!(told.is_sorted() && told.last() == Some(&(10_000_001, 10_000_001)), "{told:?}");
    bundle.verify(&mut quiet).unwrap();
}

#[test]
fn records_are_found_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let (source, path, identity) = (folder.path().join("data"), folder.path().join("b"), Identity::generate());
    fs::create_dir(&source).unwrap();
    let lines: String = (0..5000).map(|i| format!("{{\"text\": \"{}\"}}\n", "x".repeat(i % 97))).collect();
    fs::write(source.join("train.jsonl"), &lines).unwrap();
    fs::write(source.join("notes.txt"), "one\n\ntwo\n").unwrap();
    fs::write(source.join("table.parquet"), b"PAR1").unwrap();
    seal_data(&source, &path, &[recipient(&identity)], &mut quiet).unwrap();
    let bundle = Bundle::open(&path, &[identity]).unwrap();
    bundle.verify(&mut quiet).unwrap();
    let index = bundle.records("train.jsonl").unwrap().unwrap();
    let mut plain = records::Indexer::new(records::RecordKind::Jsonl);
    plain.update(lines.as_bytes()).unwrap();
    assert_eq!(index, plain.finish().unwrap());
    assert_eq!(bundle.records("notes.txt").unwrap().unwrap().count(), 2);
    assert_eq!(bundle.records("table.parquet").unwrap(), None);
    assert_eq!(bundle.files().len(), 3);

    fs::write(source.join("train.jsonl"), "{}\n{\n").unwrap();
    let to = [recipient(&Identity::generate())];
    let error = seal_data(&source, &folder.path().join("c"), &to, &mut quiet).unwrap_err().to_string();
    assert!(error.contains("train.jsonl") && error.contains("line 2: not JSON"), "{error}");
    let weights = folder.path().join("weights.bin");
    fs::write(&weights, "x").unwrap();
    let error = seal_data(&weights, &folder.path().join("c"), &to, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("no JSONL"), "{error}");
    assert_eq!(names_in(folder.path()), ["b", "data", "weights.bin"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_range_reads_as_written(
        sizes in proptest::collection::vec(0usize..1500, 1..5),
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..700), 8),
        segment_len in 33u32..400,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (path, identity) = (folder.path().join("b"), Identity::generate());
        let key = ContentKey::generate().unwrap();
        let mut writer = BundleWriter::create_with(&path, &[recipient(&identity)], key, [3; 16], segment_len).unwrap();
        let content = |i: usize, size: usize| (0..size).map(|k| (k * 31 + i) as u8).collect::<Vec<u8>>();
        for (i, size) in sizes.iter().enumerate() {
            writer.add(&format!("f{i}"), &mut &content(i, *size)[..]).unwrap();
        }
        writer.finish().unwrap();
        let bundle = Bundle::open(&path, &[identity]).unwrap();
        bundle.verify(&mut quiet).unwrap();
        for (i, size) in sizes.iter().enumerate() {
            let (file, expected) = (bundle.file(&format!("f{i}")).unwrap(), content(i, *size));
            for (at, len) in &ranges {
                let at = at.index(size + 1);
                let mut out = vec![0; (*len).min(size - at)];
                file.read_exact_at(at as u64, &mut out).unwrap();
                prop_assert_eq!(&out[..], &expected[at..at + out.len()]);
            }
        }
    }
}
