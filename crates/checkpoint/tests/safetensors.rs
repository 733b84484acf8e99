//! safetensors: round trips, and one test per malformed input.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use coffer_checkpoint::{
    DType, FileAt, MemoryAt, SafetensorsFile, ShardedSafetensors, TensorId, TensorInfo, TensorSource, safetensors::write_header,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, path::Path, sync::Arc};

fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, String> {
    SafetensorsFile::open("a.safetensors", Arc::new(MemoryAt::new("a.safetensors", bytes))).map_err(|e| e.to_string())
}

/// A file of this header and this many zero bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refused(header: &str, data: usize, expected: &str) {
    let error = open(file(header, data)).err().unwrap_or_else(|| panic!("{header} was accepted"));
    assert!(error.contains(expected), "{header}: {error}");
    assert!(error.contains("a.safetensors"), "{error}");
}

fn info(name: &str, dtype: DType, shape: &[u64]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn reads_the_demo_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m/model.safetensors");
    let model = SafetensorsFile::open("model.safetensors", Arc::new(FileAt::open(&path).unwrap())).unwrap();
    assert_eq!(model.metadata()["format"], "pt");
    let id = model.index().find("model.norm.weight").unwrap();
    assert_eq!(model.index().get(id).dtype, DType::BF16);
    let mut row = vec![0; model.index().get(id).bytes().unwrap() as usize];
    model.read_rows(id, 0..1, &mut row).unwrap();
    assert!(row.iter().any(|&b| b != 0));
}

#[test]
fn order_is_that_of_the_bytes() {
    let header = r#"{"b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]},"a":{"dtype":"I16","shape":[],"data_offsets":[0,2]}}"#;
    let mut bytes = file(header, 0);
    bytes.extend([1, 2, 3, 4, 5]);
    let f = open(bytes).unwrap();
    assert_eq!(f.index().iter().map(|(_, t)| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let mut out = [0; 3];
    f.read_rows(TensorId(1), 0..1, &mut out).unwrap();
    assert_eq!(out, [3, 4, 5]);
}

#[test]
fn rows_out_of_range_are_refused() {
    let f = open(file(ONE, 8)).unwrap();
    let reversed = std::ops::Range { start: 1, end: 0 };
    for (id, rows, len) in [(0, 0..2, 16), (0, 0..1, 7), (1, 0..1, 8), (0, 5..5, 0), (0, reversed, 0)] {
        assert!(f.read_rows(TensorId(id), rows, &mut vec![0; len]).is_err());
    }
}

#[test]
fn header_length_is_bounded() {
    for bytes in [vec![], vec![1; 7], u64::MAX.to_le_bytes().to_vec(), file("{}", 0)[..9].to_vec()] {
        assert!(open(bytes).err().unwrap().contains("does not fit"));
    }
    let mut long = 100_000_001u64.to_le_bytes().to_vec();
    long.resize(8 + 100_000_001, b' ');
    assert!(open(long).err().unwrap().contains("limit 100000000"));
}

#[test]
fn header_must_be_the_json_it_claims() {
    refused("", 0, "opening brace");
    refused("[1]", 0, "opening brace");
    refused(" {}", 0, "opening brace");
    refused("{", 0, "EOF");
    refused("{}x", 0, "trailing");
    refused(r#"{"a":1}"#, 0, "invalid type");
    refused(r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8, "missing field");
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}"#, 8, "unknown field");
    refused(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, "-2");
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}"#, 8, "trailing");
    refused(r#"{"__metadata__":{"a":1}}"#, 0, "expected a string");
}

#[test]
fn deep_nesting_is_refused() {
    refused(&format!(r#"{{"a":{}"#, r#"{"x":"#.repeat(100_000)), 0, "unknown field");
    refused(&format!(r#"{{"a":{{"shape":{}"#, "[".repeat(100_000)), 0, "invalid type");
}

#[test]
fn names_keys_and_fields_are_unique() {
    let entry = &ONE[1..ONE.len() - 1];
    refused(&format!("{{{entry},{entry}}}"), 8, "occurs twice");
    refused(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0, "occurs twice");
    refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "occurs twice");
    refused(r#"{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8, "duplicate field");
}

#[test]
fn offsets_fill_the_data() {
    refused(ONE, 7, "outside the 7 bytes");
    refused(ONE, 9, "bytes 8..9");
    refused(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#, 3, "bytes 0..1");
    refused(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}"#, 2, "bytes 0..2");
    refused(
        r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}"#,
        1,
        "needs 2",
    );
    let two = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    refused(two, 3, "overlap");
    refused(&two.replace("[1,3]", "[0,2]"), 2, "overlap");
}

#[test]
fn shape_and_type_match_the_bytes() {
    refused(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, "needs 12 bytes");
    refused(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, 8, "more than 2^64");
    let hidden = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#;
    refused(hidden, 0, "more than 2^64");
    refused(&hidden.replace("[4294967296,4294967296,0]", "[0,4294967296,4294967296,2]"), 0, "more than 2^64");
    refused(r#"{"a":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[0,2]}}"#, 2, "\"F8_E5M2\" is not supported");
}

#[test]
fn every_truncation_and_bit_flip_is_an_error_or_a_file() {
    let whole = file(ONE, 8);
    for len in 0..whole.len() {
        assert!(open(whole[..len].to_vec()).is_err());
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        read_all(open(flipped));
    }
}

#[test]
fn writer_refuses_what_cannot_be_read() {
    let write = |t: &[TensorInfo]| write_header(&mut Vec::new(), t, &BTreeMap::new()).map_err(|e| e.to_string());
    let a = info("a", DType::F32, &[2]);
    assert!(write(&[a.clone(), a]).unwrap_err().contains("twice"));
    assert!(write(&[info("", DType::F32, &[2])]).is_err());
    assert!(write(&[info("__metadata__", DType::F32, &[2])]).is_err());
    assert!(write(&[info("a", DType::Q4_0, &[32])]).unwrap_err().contains("no element type Q4_0"));
    assert!(write(&[info("a", DType::F32, &[u64::MAX, 2])]).unwrap_err().contains("overflows"));
}

/// Two shards with one tensor each, opened through `index`.
fn sharded(index: &str) -> Result<ShardedSafetensors, String> {
    ShardedSafetensors::open("model.safetensors.index.json", &MemoryAt::new("index", index.into()), |shard| {
        let header = match shard {
            "1.safetensors" => ONE.to_owned(),
            "2.safetensors" => ONE.replace("\"a\"", "\"b\""),
            _ => ONE.replace("{\"a\"", "{\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\""),
        };
        Ok(Arc::new(MemoryAt::new(shard, file(&header, 8))))
    })
    .map_err(|e| e.to_string())
}

#[test]
fn shards_are_read_as_one() {
    let model = sharded(r#"{"metadata":{"total_size":16},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}}"#).unwrap();
    let mut out = [1; 8];
    model.read_rows(model.index().find("b").unwrap(), 0..1, &mut out).unwrap();
    assert_eq!(out, [0; 8]);
    assert!(model.read_rows(TensorId(2), 0..1, &mut out).is_err());
}

#[test]
fn shards_and_index_must_agree() {
    let case = |map: &str, expected: &str| {
        let error = sharded(&format!(r#"{{"weight_map":{{{map}}}}}"#)).err().unwrap();
        assert!(error.contains(expected) && error.contains("index.json"), "{map}: {error}");
    };
    case(r#""a":"1.safetensors","c":"1.safetensors""#, "tensor c: listed in 1.safetensors, but not there");
    case(r#""a":"2.safetensors","b":"2.safetensors""#, "tensor a: listed in 2.safetensors, but not there");
    case(r#""a":"2.safetensors","b":"1.safetensors""#, "tensor a: found in 1.safetensors, listed in 2.safetensors");
    case(r#""x":"1.safetensors""#, "tensor a: found in 1.safetensors, but not listed");
    case(r#""a":"1.safetensors","b":"3.safetensors""#, "tensor a: found in 3.safetensors, listed in 1.safetensors");
    case(r#""a":"1.safetensors","a":"1.safetensors""#, "occurs twice");
    case("", "empty");
    for path in ["../1.safetensors", "/etc/passwd", "a/b", "", "..", ".hidden", "a\\\\b", "a\\u0000b", "C:x"] {
        case(&format!(r#""a":"{path}""#), "no plain file name");
    }
    assert!(sharded("[").is_err() && sharded("{}").is_err());
}

fn read_all(file: Result<SafetensorsFile, String>) {
    let Ok(file) = file else { return };
    for (id, t) in file.index().iter() {
        let mut bytes = vec![0; t.bytes().unwrap() as usize];
        file.read_rows(id, 0..t.rows(), &mut bytes).unwrap();
    }
}

const DTYPES: [DType; 10] =
    [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::I16, DType::I8, DType::U8, DType::Bool];

proptest! {
    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map("[a-z\"\\\\é.0-9]{1,12}", (0..10usize, prop::collection::vec(0..5u64, 0..4)), 0..6),
        metadata in prop::collection::btree_map(".{0,8}", ".{0,8}", 0..3),
        seed in any::<u8>(),
    ) {
        let infos: Vec<_> = tensors.iter().map(|(n, (d, s))| info(n, DTYPES[*d], s)).collect();
        let mut bytes = Vec::new();
        write_header(&mut bytes, &infos, &metadata).unwrap();
        prop_assert_eq!(bytes.len() % 8, 0);
        let mut contents = Vec::new();
        for t in &infos {
            let data: Vec<u8> = (0..t.bytes().unwrap()).map(|i| seed.wrapping_add(i as u8).wrapping_mul(31)).collect();
            bytes.extend_from_slice(&data);
            contents.push(data);
        }
        let f = open(bytes).unwrap();
        prop_assert_eq!(f.metadata(), &metadata);
        prop_assert_eq!(f.index().len(), infos.len());
        for (t, data) in infos.iter().zip(&contents) {
            let id = f.index().find(&t.name).unwrap();
            prop_assert_eq!(f.index().get(id), t);
            let mut out = vec![0; data.len()];
            f.read_rows(id, 0..t.rows(), &mut out).unwrap();
            prop_assert_eq!(&out, data);
        }
    }

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((0..70usize, any::<u8>()), 1..6)) {
        let mut bytes = file(ONE, 8);
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        read_all(open(bytes));
    }
}
