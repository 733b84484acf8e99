//! Everything that somebody without the key can do to a bundle's bytes, on a small one, exhaustively.

use super::{Bundle, BundleError, BundleWriter, layout::ContentKey};
use crate::{Identity, Recipient, floe::HEADER_LEN};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const SEGMENT: usize = 256;
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGehHa4LkohmuRE/U8g7i7xB9HASqCZRDocp2iJhrg+r";

type Parts = BTreeMap<&'static str, Vec<u8>>;
const PARTS: [&str; 7] = ["coffer.bundle", "data", "keys/mac", "keys/recipients", "keys/ssh.age", "keys/x25519.age", "manifest"];

/// A bundle on disk that is changed and put right again.
struct Target {
    folder: tempfile::TempDir,
    identity: Identity,
    parts: Parts,
    refused: usize,
}

impl Target {
    fn new() -> Self {
        let identity = Identity::generate();
        let (folder, parts) = sealed(&identity, [1; 32], [1; 16], 1, b"weights of the first");
        Self { folder, identity, parts, refused: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("b")
    }

    fn write(&self, part: &str, bytes: &[u8]) {
        fs::write(self.path().join(part), bytes).unwrap();
    }

    fn restore(&self) {
        fs::create_dir_all(self.path().join("keys")).unwrap();
        self.parts.iter().for_each(|(part, bytes)| self.write(part, bytes));
    }

    fn refuse(&mut self, what: &dyn Fn() -> String) -> BundleError {
        self.refused += 1;
        match read_all(&self.path(), &self.identity) {
            Ok(_) => panic!("accepted: {}", what()),
            Err(e) => e,
        }
    }

    /// The bundle with these parts instead of its own is refused.
    fn refuse_with(&mut self, changed: &[(&str, &[u8])], what: &dyn Fn() -> String) -> BundleError {
        changed.iter().for_each(|(part, bytes)| self.write(part, bytes));
        let error = self.refuse(what);
        changed.iter().for_each(|(part, _)| self.write(part, &self.parts[part]));
        error
    }
}

fn sealed(identity: &Identity, key: [u8; 32], id: [u8; 16], epoch: u64, text: &[u8]) -> (tempfile::TempDir, Parts) {
    // In memory where that is at hand: thousands of rewrites are slow on a disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("b");
    let recipients = [Recipient::parse(&identity.recipient().unwrap()).unwrap(), Recipient::parse(SSH).unwrap()];
    let key = ContentKey::new(Zeroizing::new(key));
    let mut writer = BundleWriter::create_with(&path, &recipients, key, id, SEGMENT as u32).unwrap();
    writer.succeed([7; 16], epoch);
    writer.add("model/weights.bin", &mut &text.repeat(20)[..]).unwrap();
    writer.add("config.json", &mut &b"{}"[..]).unwrap();
    writer.add("empty", &mut &b""[..]).unwrap();
    writer.finish().unwrap();
    let parts = PARTS.map(|part| (part, fs::read(path.join(part)).unwrap())).into();
    (folder, parts)
}

fn read_all(path: &Path, identity: &Identity) -> Result<Vec<(String, Vec<u8>)>, BundleError> {
    let bundle = Bundle::open(path, std::slice::from_ref(identity))?;
    let read = |(name, size): (String, u64)| {
        let mut bytes = vec![0; size as usize];
        bundle.file(&name)?.read_exact_at(0, &mut bytes)?;
        Ok((name, bytes))
    };
    // Reads the padding too, which is nobody's content.
    bundle.verify(&mut |_, _| ())?;
    bundle.files().into_iter().map(read).collect()
}

#[test]
fn untouched_bundles_open() {
    let target = Target::new();
    let files = read_all(&target.path(), &target.identity).unwrap();
    assert_eq!(files[0], ("model/weights.bin".to_owned(), b"weights of the first".repeat(20)));
    assert_eq!(files.len(), 3);
}

#[test]
fn every_flip_is_refused() {
    let mut target = Target::new();
    for part in PARTS {
        let bytes = target.parts[part].clone();
        for at in 0..bytes.len() {
            // 0x20 makes a letter's other case, which must not pass for the same hex digit.
            for mask in [1 << (at % 8), 0x20] {
                let mut bad = bytes.clone();
                bad[at] ^= mask;
                target.refuse_with(&[(part, &bad)], &|| format!("{part}, byte {at} ^ {mask:#x}"));
            }
        }
    }
    println!("flips: {} refused", target.refused);
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let mut target = Target::new();
    for part in PARTS {
        let bytes = target.parts[part].clone();
        for length in 0..bytes.len() {
            target.refuse_with(&[(part, &bytes[..length])], &|| format!("{part} cut to {length}"));
        }
        for tail in [&[0][..], b"\n", &bytes] {
            let bad = [&bytes, tail].concat();
            target.refuse_with(&[(part, &bad)], &|| format!("{part} longer by {}", tail.len()));
        }
    }
    println!("truncations and extensions: {} refused", target.refused);
}

#[test]
fn missing_and_extra_files_are_refused() {
    let mut target = Target::new();
    for part in PARTS {
        fs::remove_file(target.path().join(part)).unwrap();
        target.refuse(&|| format!("without {part}"));
        fs::create_dir(target.path().join(part)).unwrap();
        target.refuse(&|| format!("{part} is a folder"));
        fs::remove_dir(target.path().join(part)).unwrap();
        let aside = target.folder.path().join("aside");
        fs::write(&aside, &target.parts[part]).unwrap();
        std::os::unix::fs::symlink(&aside, target.path().join(part)).unwrap();
        target.refuse(&|| format!("{part} is a link"));
        fs::remove_file(target.path().join(part)).unwrap();
        target.restore();
    }
    fs::remove_dir_all(target.path().join("keys")).unwrap();
    assert!(matches!(target.refuse(&|| "without keys".into()), BundleError::Missing { .. }));
    target.restore();
    for extra in ["data2", ".hidden", "keys/other", "keys/y.age", "keys/.age"] {
        target.write(extra, &target.parts["keys/x25519.age"]);
        target.refuse(&|| format!("with {extra}"));
        fs::remove_file(target.path().join(extra)).unwrap();
    }
    read_all(&target.path(), &target.identity).unwrap();
    println!("missing, extra and irregular files: {} refused", target.refused);
}

#[test]
fn every_swap_of_parts_is_refused() {
    let mut target = Target::new();
    for (i, a) in PARTS.into_iter().enumerate() {
        for b in &PARTS[i + 1..] {
            let (from_a, from_b) = (target.parts[a].clone(), target.parts[b].clone());
            target.refuse_with(&[(a, &from_b), (b, &from_a)], &|| format!("{a} and {b} swapped"));
            target.refuse_with(&[(a, &from_b)], &|| format!("{b} in place of {a}"));
            target.refuse_with(&[(b, &from_a)], &|| format!("{a} in place of {b}"));
        }
    }
    println!("swaps and copies of parts: {} refused", target.refused);
}

#[test]
fn every_swap_repeat_and_removal_of_segments_is_refused() {
    let mut target = Target::new();
    let data = target.parts["data"].clone();
    let (header, body) = data.split_at(HEADER_LEN);
    let segments: Vec<&[u8]> = body.chunks(SEGMENT).collect();
    let n = segments.len();
    assert!(n >= 4);
    let mut refuse = |order: Vec<usize>| {
        let bad = [header, &order.iter().map(|i| segments[*i]).collect::<Vec<_>>().concat()].concat();
        target.refuse_with(&[("data", &bad)], &|| format!("segments {order:?}"));
    };
    for i in 0..n {
        refuse((0..n).filter(|k| *k != i).collect());
        for j in 0..n {
            let mut copied: Vec<usize> = (0..n).collect();
            copied.insert(j, i);
            refuse(copied);
            if i != j {
                let mut overwritten: Vec<usize> = (0..n).collect();
                overwritten[j] = i;
                refuse(overwritten);
            }
            if i < j {
                let mut swapped: Vec<usize> = (0..n).collect();
                swapped.swap(i, j);
                refuse(swapped);
            }
        }
        refuse((0..i).collect());
    }
    println!("orders of segments: {} refused", target.refused);
}

/// Parts of another bundle of the same lineage for the same recipients, of the same epoch and of the next: with a key of its own,
/// with the same content key, and with the same content key and id (which the writer never makes).
#[test]
fn every_mixture_of_two_bundles_is_refused() {
    let mut target = Target::new();
    for (key, id, epoch) in [(2, 2, 1), (1, 2, 1), (1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 2)] {
        let (_folder, other) = sealed(&target.identity, [key; 32], [id; 16], epoch, b"weights of a second!");
        let groups = [&PARTS[..1], &PARTS[1..2], &PARTS[2..6], &PARTS[6..]];
        for taken in 1u8..0b1111 {
            let chosen = groups.iter().enumerate().filter(|(i, _)| taken >> i & 1 == 1).flat_map(|(_, parts)| *parts);
            let changed: Vec<(&str, &[u8])> = chosen.map(|part| (*part, &other[part][..])).collect();
            // With one key and one id, marker and key files of the two bundles are interchangeable by right.
            let content = (taken >> 1 & 1, taken >> 3);
            if (key, id) == (1, 1) && content.0 == content.1 {
                continue;
            }
            target.refuse_with(&changed, &|| format!("key {key}, id {id}, epoch {epoch}: mixture {taken:04b}"));
        }
        for part in PARTS {
            let whole_part = (key, id) == (1, 1) && part == "coffer.bundle";
            if !whole_part {
                target
                    .refuse_with(&[(part, &other[part])], &|| format!("key {key}, id {id}, epoch {epoch}: {part} of the other"));
            }
        }
    }
    println!("mixtures of two bundles, and of two epochs of one: {} refused", target.refused);
}
