//! safetensors, GGUF, configurations, templates, and directories of them.

use coffer_scan::{RULES, Report, scan, scan_bytes};
use proptest::prelude::*;
use std::{fs, os::unix::fs::symlink, path::Path};

fn rules(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|f| f.rule.as_str()).collect()
}

fn assert_rules(name: &str, bytes: &[u8], expected: &[&str]) {
    let report = scan_bytes(name, bytes);
    assert_eq!(rules(&report), expected, "{:#?}", report.findings);
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_headers_are_checked() {
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_rules("m.safetensors", &safetensors(one, 8), &[]);
    assert_rules("m.bin", &safetensors(one, 9), &["safetensors-malformed"]);
    let wrong = [
        safetensors(one, 7),
        safetensors(&one.replace("[2]", "[3]"), 8),
        safetensors(&one.replace("[2]", "[4294967296,4294967296]"), 8),
        safetensors(&one.replace("[0,8]", "[8,0]"), 8),
        safetensors(&one.replace("[0,8]", "[1,9]"), 9),
        safetensors("{", 0),
        safetensors(&format!("{},{}", &one[..one.len() - 1], &one[1..]), 8),
        u64::MAX.to_le_bytes().to_vec(),
        b"short".to_vec(),
        vec![],
    ];
    for bytes in wrong {
        assert_rules("m.safetensors", &bytes, &["safetensors-malformed"]);
    }
}

/// A GGUF file with one string and one F32 tensor.
fn gguf(text: &str, len: u64, offset: u64) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(1u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    for s in ["tokenizer.chat_template", text] {
        if s == text {
            out.extend(8u32.to_le_bytes());
        }
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    }
    out.extend(1u64.to_le_bytes());
    out.extend(b"a\x01\0\0\0");
    out.extend(len.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + 64, 0);
    out
}

#[test]
fn gguf_headers_are_checked() {
    assert_rules("m.gguf", &gguf("hello", 2, 32), &[]);
    for wrong in [gguf("", 2, 64), gguf("", 2, 33), gguf("", 17, 0), gguf("", u64::MAX, 0), gguf("", 2, u64::MAX - 31)] {
        assert_rules("m.gguf", &wrong, &["gguf-malformed"]);
    }
    for (at, byte) in [(4, 1), (4, 0), (12, 0xff), (15, 1), (23, 1), (24 + 7, 1)] {
        let mut bytes = gguf("hello", 2, 0);
        bytes[at] = byte;
        assert_rules("m.gguf", &bytes, &["gguf-malformed"]);
    }
    assert_rules("m.gguf", b"GGUF", &["gguf-malformed"]);
}

#[test]
fn templates_stay_in_jinja() {
    let plain = "{% for m in messages | selectattr('role', 'equalto', 'user') %}<__start__>{{ m['content'] }}\n{% endfor %}";
    assert_rules("m.gguf", &gguf(plain, 2, 0), &[]);
    for escape in [
        "{{ ''.__class__.__mro__ }}",
        "{{ x['\\x5f\\x5fclass\\u005f\\u005f'] }}",
        "{{ x['\\137_class\\137_'] }}",
        "{{ x |  attr('y') }}",
        "{% set a = lipsum . z %}",
        "{{ x.__init__",
    ] {
        assert_rules("m.gguf", &gguf(escape, 2, 0), &["template-escape"]);
        let json = serde_json::json!({"chat_template": [{"name": "default", "template": escape}]}).to_string();
        assert_rules("tokenizer_config.json", json.as_bytes(), &["template-escape"]);
        assert_rules("chat_template.jinja", escape.as_bytes(), &["template-escape"]);
    }
    assert_rules("m.gguf", &gguf("{%- include 'x' %}", 2, 0), &["template-include"]);
    assert_rules("m.gguf", &gguf("{{ x['__' ~ 'y'] }}", 2, 0), &["template-unusual"]);
}

#[test]
fn configurations_that_name_code_are_reported() {
    assert_rules("config.json", br#"{"a":[1,-2,0.5,true,null,"x"]}"#, &[]);
    assert_rules("config.json", br#"{"auto_map":{"AutoModel":"x.Y"}}"#, &["custom-code"]);
    assert_rules("config.json", br#"{"\u0061uto_map":{}}"#, &["custom-code"]);
    assert_rules("config.json", br#"{"layers":[{"class_name":"Lambda"}]}"#, &["keras-lambda"]);
    assert_rules("config.json", b"{", &["json-malformed"]);
    assert_rules("config.json", "[".repeat(1000).as_bytes(), &["json-malformed"]);
    assert_rules("model.h5", b"\x89HDF\r\n\x1a\n....\"class_name\": \"Lambda\"", &["hdf5-not-parsed", "keras-lambda"]);
}

#[test]
fn programs_beside_a_model_are_reported() {
    assert_rules("modeling.py", b"import os\n", &["python-source"]);
    assert_rules("x.bin", b"\x7fELF\x02", &["native-code"]);
    assert_rules("install", b"#!/bin/sh\n", &["native-code"]);
}

proptest! {
    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let seeds = [
            ("m.safetensors", safetensors(header, 8)),
            ("m.gguf", gguf("{{ bos }}{% if a %}b{% endif %}", 2, 0)),
            ("config.json", br#"{"auto_map":{"a":["{{ x['\\u005f'] }}",1.5e3,null]}}"#.to_vec()),
            ("a.npy", b"\x93NUMPY\x01\0\x20\0{'descr': '|O', 'shape': (1,)}   cos\nsystem\n)R.".to_vec()),
        ];
        for (name, mut bytes) in seeds {
            for (at, value) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            scan_bytes(name, &bytes);
        }
    }
}

#[test]
fn directories_are_walked_without_following_links() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let exploit = b"cos\nsystem\n(S'true'\ntR.";
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/a.bin"), exploit).unwrap();
    fs::write(dir.path().join("b.pkl"), b"N.").unwrap();
    fs::write(outside.path().join("c.pkl"), exploit).unwrap();
    symlink(outside.path(), dir.path().join("away")).unwrap();
    symlink("b.pkl", dir.path().join("inside")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    symlink("..", dir.path().join("sub/loop")).unwrap();
    let report = scan(dir.path()).unwrap();
    assert_eq!(report.files, 2);
    assert_eq!(rules(&report), ["symlink-outside", "symlink-outside", "pickle-dangerous-global"]);
    assert!(serde_json::to_string(&report).unwrap().contains(r#""severity":"unsafe","rule":"pickle-dangerous-global""#));
    assert!(scan(&dir.path().join("missing")).unwrap_err().to_string().contains("missing"));
}

#[test]
fn the_documentation_lists_every_rule() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scan.md")).unwrap();
    for rule in RULES {
        let severity = serde_json::to_string(&rule.severity).unwrap();
        let row = format!("| `{}` | {} |", rule.id, severity.trim_matches('"'));
        assert!(docs.contains(&row), "docs/scan.md lacks {row}");
    }
    assert_eq!(docs.lines().filter(|l| l.starts_with("| `")).count(), RULES.len());
}
