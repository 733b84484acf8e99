//! Rows of Parquet files, plain and sealed. `tests/parquet/` was written by pyarrow (`xtask/peers/parquet_rows.py tests/parquet 24`).

#![cfg_attr(feature = "parquet", expect(clippy::unwrap_used, reason = "helpers of tests"))]

use coffer_store::Dataset;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "parquet", name].iter().collect()
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_says_so() {
    let error = Dataset::open(&fixture("snappy.parquet"), &[]).err().unwrap().to_string();
    assert!(error.contains("--features parquet"), "{error}");
}

#[cfg(feature = "parquet")]
mod rows {
    use super::*;
    use coffer_seal::{Identity, Recipient, bundle::seal_data};
    use proptest::prelude::*;
    use std::{fs, path::Path};
    use tempfile::TempDir;

    const NAMES: [&str; 5] = ["snappy", "zstd-v2", "index", "gzip", "plain"];

    type Json = serde_json::Value;

    fn rows() -> Vec<Json> {
        let text = fs::read_to_string(fixture("rows.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn parsed(data: &Dataset, number: u64) -> Json {
        serde_json::from_slice(&data.record(number).unwrap()).unwrap()
    }

    #[test]
    fn rows_are_what_pyarrow_wrote_in_any_order() {
        let expected = rows();
        for name in NAMES {
            let data = Dataset::open(&fixture(&format!("{name}.parquet")), &[]).unwrap();
            assert_eq!((data.len(), data.files()[0].kind()), (24, "parquet"));
            for number in data.shuffled(3, 1).iter().chain(0..24) {
                assert_eq!(parsed(&data, number), expected[number as usize], "{name}: row {number}");
            }
            assert!(data.record(24).unwrap_err().to_string().contains("no record 24; it has 24"));
        }
    }

    #[test]
    fn a_sealed_folder_holds_them_beside_other_records() {
        let folder = TempDir::new().unwrap();
        let (source, bundle) = (folder.path().join("data"), folder.path().join("sealed"));
        fs::create_dir(&source).unwrap();
        for name in NAMES {
            fs::copy(fixture(&format!("{name}.parquet")), source.join(format!("{name}.parquet"))).unwrap();
        }
        fs::copy(fixture("rows.jsonl"), source.join("rows.jsonl")).unwrap();
        let identity = Identity::generate();
        let to = [Recipient::parse(&identity.recipient().unwrap()).unwrap()];
        seal_data(&source, &bundle, &to, &mut |_, _| ()).unwrap();
        let (data, expected) = (Dataset::open(&bundle, &[identity]).unwrap(), rows());
        assert_eq!(data.len(), 6 * 24);
        for number in data.shuffled(1, 0).iter() {
            assert_eq!(parsed(&data, number), expected[number as usize % 24], "row {number}");
        }
    }

    fn error(path: &Path, bytes: &[u8]) -> String {
        fs::write(path, bytes).unwrap();
        Dataset::open(path, &[]).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn bad_footers_are_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("x.parquet");
        let whole = fs::read(fixture("snappy.parquet")).unwrap();
        let ending = |bytes: &[u8]| [&whole[..whole.len() - 8], bytes].concat();
        for (bytes, part) in [
            (vec![], "too short"),
            (b"PAR1".to_vec(), "too short"),
            (vec![b'x'; 100], "does not end as a Parquet file"),
            (ending(b"\x10\0\0\0PARE"), "encrypted by Parquet's own means"),
            (ending(b"\xff\xff\xff\xffPAR1"), "a footer of 4294967295 bytes"),
            (ending(b"\0\0\0\0PAR1"), "its footer"),
            (whole[..whole.len() - 1].to_vec(), "does not end as a Parquet file"),
        ] {
            let error = error(&path, &bytes);
            assert!(error.contains("x.parquet") && error.contains(part), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        /// A changed byte, a cut or a doubled piece: some rows can be read or an error says why not, and that is all.
        #[test]
        fn damaged_files_are_met_with_errors(which in 0..NAMES.len(), at: prop::sample::Index, bit in 0..8, how in 0..3) {
            let mut bytes = fs::read(fixture(&format!("{}.parquet", NAMES[which]))).unwrap();
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] ^= 1u8 << bit,
                1 => drop(bytes.drain(at..(at + 9).min(bytes.len()))),
                _ => bytes.splice(at..at, bytes[..at.min(9)].to_vec()).for_each(drop),
            }
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("x.parquet");
            fs::write(&path, bytes).unwrap();
            if let Ok(data) = Dataset::open(&path, &[]) {
                for number in [0, 7, 23] {
                    let _ = data.record(number);
                }
            }
        }
    }
}
