//! Pickles, alone and in the containers that loaders open.

use coffer_scan::{Report, Severity, scan_bytes};

/// `os.system("true")`, protocol 0.
const SYSTEM: &[u8] = b"cos\nsystem\n(S'true'\ntR.";
/// `[1, 2]`, protocol 2.
const DATA: &[u8] = b"\x80\x02](K\x01K\x02e.";

fn rules(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|f| f.rule.as_str()).collect()
}

fn assert_rules(name: &str, bytes: &[u8], expected: &[&str]) {
    let report = scan_bytes(name, bytes);
    assert_eq!(rules(&report), expected, "{name}: {:#?}", report.findings);
}

#[test]
fn code_is_found_whatever_the_file_is_called() {
    for name in ["a.pkl", "a.bin", "a.txt", "a.json.bak", "a.safetensors.old", "a"] {
        assert_rules(name, SYSTEM, &["pickle-dangerous-global"]);
    }
    assert_rules("a.pkl", b"cbuiltins\nprint\n(S'hello'\ntR.", &["pickle-dangerous-global"]);
}

#[test]
fn data_is_no_finding() {
    assert_rules("a.pkl", DATA, &[]);
    assert_rules("a.pt", b"\x80\x02ccollections\nOrderedDict\n)R.", &[]);
    assert_rules("README.md", b"code\nos\nsystem\n", &[]);
    assert_rules("notes.txt", b"ctypes\nis a\nmodule", &[]);
    assert_rules("weights.bin", &[0x88; 1 << 20], &["unknown-content"]);
    assert_rules("weights.dat", &[0x88; 1 << 20], &[]);
}

#[test]
fn unknown_classes_are_a_warning() {
    let report = scan_bytes("a.pkl", b"\x80\x02csklearn.tree\nTree\n)\x81}b.");
    assert_eq!(rules(&report), ["pickle-unknown-global"]);
    assert_eq!(report.worst(), Some(Severity::Warning));
}

#[test]
fn every_pickle_of_a_file_is_read() {
    assert_rules("a.pkl", &[DATA, DATA, SYSTEM].concat(), &["pickle-dangerous-global"]);
    let report = scan_bytes("a.pkl", &[DATA, SYSTEM].concat());
    assert_eq!(report.findings[0].offset, Some(DATA.len() as u64));
    // Old PyTorch files go on with tensors.
    assert_rules("a.pt", &[DATA, &[0x7f; 64]].concat(), &[]);
}

#[test]
fn what_runs_before_a_break_is_found() {
    let broken = [&SYSTEM[..SYSTEM.len() - 1], b"\xff\xff"].concat();
    assert_rules("a.bin", &broken, &["pickle-dangerous-global"]);
    assert_rules("a.pkl", &broken, &["pickle-dangerous-global", "pickle-broken"]);
    assert_rules("a.pt", b"\x89PNG\r\n\x1a\n", &["pickle-broken"]);
    assert_rules("a.pkl", &DATA[..5], &["pickle-broken"]);
}

#[test]
fn numpy_objects_are_pickles() {
    let npy = |descr: &str, data: &[u8]| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n");
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    };
    assert_rules("a.npy", &npy("'<f4'", SYSTEM), &[]);
    assert_rules("a.npy", &npy("'|O'", DATA), &["numpy-object-array"]);
    assert_rules("a.dat", &npy("[('x', '|O')]", SYSTEM), &["numpy-object-array", "pickle-dangerous-global"]);
    assert_rules("a.npy", b"\x93NUMPY\x01\0\xff\xff{", &["numpy-malformed"]);
    assert_rules("a.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff{", &["numpy-malformed"]);
    assert_rules("a.npy", b"\x93NUMPY\x09\0", &["numpy-malformed"]);
}

#[test]
fn compressed_pickles_are_decompressed() {
    use flate2::{Compression, write};
    use std::io::Write;
    let mut gz = write::GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(SYSTEM).unwrap();
    let gz = gz.finish().unwrap();
    assert_rules("a.gz", &gz, &["pickle-dangerous-global"]);
    assert_rules("a.gz", &gz[..gz.len() - 4], &["archive-malformed", "pickle-dangerous-global"]);
    let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(SYSTEM).unwrap();
    assert_rules("a.joblib", &zlib.finish().unwrap(), &["pickle-dangerous-global"]);
    let mut bomb = write::GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..65 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    assert_rules("a.gz", &bomb.finish().unwrap(), &["scan-limit"]);
}

#[test]
fn archives_that_cannot_be_opened_are_refused() {
    for magic in [&b"7z\xBC\xAF\x27\x1C\0"[..], b"Rar!\x1A\x07\x01", b"\xFD7zXZ\0\0", b"BZh91AY", b"\x28\xB5\x2F\xFD\0"] {
        assert_rules("model.bin", magic, &["archive-opaque"]);
    }
}

#[test]
fn mutations_never_panic() {
    let seeds: [&[u8]; 3] = [SYSTEM, DATA, b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."];
    for seed in seeds {
        for cut in 0..seed.len() {
            scan_bytes("a.pkl", &seed[..cut]);
        }
        for bit in 0..seed.len() * 8 {
            let mut flipped = seed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            scan_bytes("a.pkl", &flipped);
        }
    }
}
