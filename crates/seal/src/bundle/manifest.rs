//! The list of what a bundle holds. It is sealed itself, and everything in it is checked before it is used.

use super::layout::padded;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Largest manifest in bytes.
pub(super) const MAX_LEN: u64 = 64 << 20;
const MAX_FILES: usize = 100_000;
const MAX_NAME_LEN: usize = 1024;

/// Names a bundle through all its epochs: random, sealed.
pub(super) type Lineage = [u8; 16];

#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Rises when the content is encrypted anew under another key.
    pub(super) epoch: u64,
    /// Stays the same through all epochs.
    #[serde(with = "hex::serde")]
    pub(super) lineage: Lineage,
    pub(super) data: Data,
    pub(super) files: Vec<Entry>,
}

/// The stream that holds the files one after the other, and padding.
#[derive(Serialize, Deserialize)]
pub(super) struct Data {
    #[serde(with = "hex::serde")]
    pub(super) iv: [u8; 32],
    pub(super) length: u64,
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: u64,
    #[serde(with = "hex::serde")]
    pub(super) sha256: [u8; 32],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records: Option<Records>,
}

/// Where the index of a file's records lies in the data stream's plaintext.
#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Records {
    pub(super) kind: String,
    pub(super) count: u64,
    pub(super) at: u64,
    pub(super) size: u64,
}

impl Manifest {
    /// JSON, padded with blanks.
    pub(super) fn to_padded_json(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        let length =
            padded(json.len() as u64).filter(|n| *n <= MAX_LEN).ok_or("the manifest is too long: fewer or shorter names")?;
        json.resize(length as usize, b' ');
        Ok(json)
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(json).map_err(|e| format!("the manifest: {e}"))?;
        let mut names = Names::default();
        let mut total = 0u64;
        for entry in &manifest.files {
            names.insert(&entry.name).map_err(|why| format!("the manifest: file {:?}: {why}", entry.name))?;
            total = total.checked_add(entry.size).ok_or("the manifest: the files' sizes overflow")?;
        }
        if total > manifest.data.length {
            let have = manifest.data.length;
            return Err(format!("the manifest: its files have {total} bytes, its data {have}"));
        }
        Ok(manifest)
    }
}

/// Names that can stand beside one another in one tree of folders.
#[derive(Default)]
pub(super) struct Names {
    files: HashSet<String>,
    folders: HashSet<String>,
}

impl Names {
    /// Adds a relative, `/`-separated name, or says why it cannot be.
    pub(super) fn insert(&mut self, name: &str) -> Result<(), String> {
        if self.files.len() >= MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
        check(name)?;
        let folders = || name.match_indices('/').map(|(at, _)| &name[..at]);
        if self.folders.contains(name) || folders().any(|folder| self.files.contains(folder)) {
            return Err("it is a file and a folder at once".into());
        }
        if !self.files.insert(name.to_owned()) {
            return Err("it is there twice".into());
        }
        self.folders.extend(folders().map(str::to_owned));
        Ok(())
    }
}

fn check(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_LEN {
        return Err(format!("it is longer than {MAX_NAME_LEN} bytes"));
    }
    if let Some(bad) = name.chars().find(|c| c.is_control() || matches!(c, '\\' | ':')) {
        return Err(format!("it contains {bad:?}"));
    }
    match name.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some(part) => Err(format!("{part:?} is no part of a relative name")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_names() {
        let long = "x".repeat(1025);
        for name in ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\0b", "a\nb", "C:/x", r"..\x", &long] {
            assert!(Names::default().insert(name).is_err(), "{name:?}");
        }
        for name in ["a", "a/b.c", "..a", "a..", ".hidden", "späße/模型"] {
            Names::default().insert(name).unwrap();
        }
    }

    #[test]
    fn names_that_collide() {
        for pair in [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]] {
            let mut names = Names::default();
            names.insert(pair[0]).unwrap();
            assert!(names.insert(pair[1]).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn bad_manifests() {
        let file = |size: u64| format!(r#"{{"name":"f{size}","size":{size},"sha256":"{}"}}"#, "0".repeat(64));
        let manifest = |files: &str| {
            format!(
                r#"{{"epoch":1,"lineage":"000102030405060708090a0b0c0d0e0f","data":{{"iv":"{}","length":100}},"files":[{files}]}}"#,
                "0".repeat(64)
            )
        };
        Manifest::parse(manifest(&file(100)).as_bytes()).unwrap();
        for bad in [
            String::new(),
            "{}".into(),
            manifest("").replace("000102", "0001"),
            manifest("").replace("lineage", "line"),
            manifest(&file(101)),
            manifest(&format!("{},{}", file(60), file(41))),
            manifest(&format!("{},{}", file(u64::MAX), file(1))),
            manifest(&format!("{},{}", file(1), file(1))),
            manifest(&file(1)).replace("\"size\":1", "\"size\":-1"),
            manifest(&file(1)).replace("f1", "../f1"),
            manifest(&file(1)).replacen("00", "", 1),
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_change_is_survived(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut json = br#"{"epoch":1,"lineage":"00","data":{"iv":"00","length":9},"files":[{"name":"a/b","size":7,"sha256":"00"}]}"#.to_vec();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = Manifest::parse(&json);
        }
    }
}
