//! GGUF: round trips, and one test per malformed input.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use coffer_checkpoint::{
    DType, GgufFile, MemoryAt, TensorId, TensorInfo, TensorSource,
    gguf::{Array, GgufWriter, Metadata, Value},
};
use proptest::prelude::*;
use std::sync::Arc;

fn open(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::open("a.gguf", Arc::new(MemoryAt::new("a.gguf", bytes))).map_err(|e| e.to_string())
}

fn refused(bytes: Vec<u8>, expected: &str) {
    let error = open(bytes).err().expect(expected);
    assert!(error.contains(expected) && error.contains("a.gguf"), "{error}");
}

/// Builds headers by hand, right or wrong.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, entries: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }
    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }
    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    fn string(self, s: &str) -> Self {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }
    fn tensor(self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> Self {
        let with_dims = dims.iter().fold(self.string(name).u32(dims.len() as u32), |r, &d| r.u64(d));
        with_dims.u32(dtype).u64(offset)
    }
    /// Pads the header and appends `n` bytes of data.
    fn data(mut self, n: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self.0
    }
}

#[test]
fn reads_versions_2_and_3() {
    for version in [2, 3] {
        let mut bytes = Raw::new(1, 0).tensor("a", &[2, 3], 0, 0).data(24);
        bytes[4] = version;
        let f = open(bytes).unwrap();
        assert_eq!(f.index().get(TensorId(0)).shape, [3, 2]);
        f.read_rows(TensorId(0), 1..3, &mut [0; 16]).unwrap();
        assert!(f.read_rows(TensorId(0), 1..4, &mut [0; 24]).is_err());
    }
}

#[test]
fn other_files_and_versions_are_refused() {
    refused(b"GGML0000".to_vec(), "not a GGUF file");
    refused(b"GG".to_vec(), "4 bytes wanted");
    for version in [0, 1, 4] {
        let mut bytes = Raw::new(0, 0).data(0);
        bytes[4] = version;
        refused(bytes, &format!("version {version} is not supported"));
    }
    refused(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "big-endian");
}

#[test]
fn counts_are_bounded_by_the_file() {
    refused(Raw::new(u64::MAX, 0).data(0), "tensor count");
    refused(Raw::new(2, 0).data(0), "tensor count: 2 items");
    refused(Raw::new(0, u64::MAX).data(0), "metadata count");
    refused(Raw::new(0, 1).u64(u64::MAX).data(64), "key 0");
    for (element, field) in [(0, 1u64 << 40), (8, 1 << 40), (12, u64::MAX), (7, 1 << 33)] {
        refused(Raw::new(0, 1).string("k").u32(9).u32(element).u64(field).data(64), "items of");
    }
    refused(Raw::new(0, 1).string("k").u32(9).u32(8).u64(1).u64(1 << 50).data(64), "bytes wanted");
}

#[test]
fn values_are_of_known_types() {
    refused(Raw::new(0, 1).string("k").u32(13).data(64), "k: unknown value type 13");
    refused(Raw::new(0, 1).string("k").u32(9).u32(13).u64(0).data(64), "k: unknown element type 13");
    refused(Raw::new(0, 1).string("k").u32(9).u32(9).u64(1).u32(0).u64(0).data(64), "arrays of arrays");
    refused(Raw::new(0, 1).string("k").u32(7).bytes(&[2]).data(64), "2 is no boolean");
    refused(Raw::new(0, 1).u64(1).bytes(&[0xFF]).u32(7).bytes(&[1]).data(64), "not UTF-8");
}

#[test]
fn keys_and_names_are_unique() {
    let key = |r: Raw| r.string("k").u32(7).bytes(&[1]);
    refused(key(key(Raw::new(0, 2))).data(0), "k: the key occurs twice");
    refused(Raw::new(2, 0).tensor("a", &[1], 0, 0).tensor("a", &[1], 0, 32).data(64), "tensor a: listed twice");
}

#[test]
fn alignment_is_honoured() {
    let aligned = |n: u32| Raw::new(2, 1).string("general.alignment").u32(4).u32(n);
    let tensors = |r: Raw, second: u64| r.tensor("a", &[1], 0, 0).tensor("b", &[1], 0, second);
    assert!(open(tensors(aligned(8), 8).data(64)).is_ok());
    refused(tensors(aligned(64), 32).data(64), "no multiple of the alignment 64");
    refused(tensors(Raw::new(2, 0), 8).data(64), "tensor b: its offset 8 is no multiple of the alignment 32");
    for wrong in [0, 3, 1 << 21] {
        refused(tensors(aligned(wrong), 32).data(64), "no power of two");
    }
    refused(Raw::new(0, 1).string("general.alignment").u32(7).bytes(&[1]).data(64), "not a u32");
}

#[test]
fn tensors_lie_in_the_file_without_overlap() {
    refused(Raw::new(1, 0).tensor("a", &[9], 0, 0).data(32), "tensor a: 36 bytes");
    refused(Raw::new(1, 0).tensor("a", &[1], 0, u64::MAX - 31).data(32), "lie outside");
    refused(Raw::new(2, 0).tensor("a", &[9], 0, 0).tensor("b", &[1], 0, 32).data(64), "tensor b: its bytes overlap those of a");
    refused(Raw::new(1, 0).tensor("a", &[1 << 40, 1 << 40], 0, 0).data(32), "overflows");
    refused(Raw::new(1, 0).tensor("a", &[33], 2, 0).data(64), "whole blocks");
    refused(Raw::new(1, 0).tensor("a", &[1; 5], 0, 0).data(64), "5 dimensions");
}

#[test]
fn other_tensor_types_are_refused_by_name() {
    refused(Raw::new(1, 0).tensor("a", &[256], 16, 0).data(256), "ggml type 16 (IQ2_XXS)");
    refused(Raw::new(1, 0).tensor("a", &[256], 39, 0).data(256), "ggml type 39 (MXFP4)");
    refused(Raw::new(1, 0).tensor("a", &[256], 999, 0).data(256), "ggml type 999 (unknown)");
}

#[test]
fn every_truncation_and_bit_flip_is_an_error_or_a_file() {
    let whole = small();
    for len in 0..whole.len() {
        read_all(open(whole[..len].to_vec()));
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        read_all(open(flipped));
    }
}

#[test]
fn writer_refuses_what_llama_cpp_could_not_load() {
    let write = |t: &[TensorInfo]| GgufWriter::new(Vec::new(), &Metadata::default(), t).err().expect("refused").to_string();
    let a = info("a", DType::F32, &[2]);
    assert!(write(&[a.clone(), a.clone()]).contains("twice"));
    assert!(write(&[info(&"n".repeat(64), DType::F32, &[2])]).contains("64 bytes"));
    assert!(write(&[info("", DType::F32, &[2])]).contains("0 bytes"));
    assert!(write(&[info("a", DType::Bool, &[2])]).contains("no type BOOL"));
    assert!(write(&[info("a", DType::F32, &[1; 5])]).contains("5 dimensions"));
    assert!(write(&[info("a", DType::Q4_0, &[33])]).contains("whole blocks"));
    assert!(write(&[info("a", DType::F32, &[u64::MAX, 2])]).contains("overflows"));
    let mut odd = Metadata::default();
    odd.set("general.alignment", Value::U32(3));
    assert!(GgufWriter::new(Vec::new(), &odd, &[]).is_err());

    let mut writer = GgufWriter::new(Vec::new(), &Metadata::default(), &[a]).unwrap();
    assert!(writer.write(&[0; 9]).unwrap_err().to_string().contains("8 are missing"));
    writer.write(&[0; 5]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("3 bytes are missing"));
}

fn info(name: &str, dtype: DType, shape: &[u64]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

fn small() -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String("llama".into()));
    metadata.set("tokens", Value::Array(Array::String(vec!["a".into(), "é".into()])));
    metadata.set("scores", Value::Array(Array::F32(vec![1.0, 2.0])));
    write(&metadata, &[info("a", DType::F32, &[3]), info("b", DType::Q4_0, &[2, 32])])
}

/// A file whose data bytes count up from zero in each tensor.
fn write(metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<u8> {
    let mut writer = GgufWriter::new(Vec::new(), metadata, tensors).unwrap();
    for t in tensors {
        for chunk in counting(t).chunks(7) {
            writer.write(chunk).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn counting(t: &TensorInfo) -> Vec<u8> {
    (0..t.bytes().unwrap()).map(|i| i as u8).collect()
}

fn read_all(file: Result<GgufFile, String>) {
    let Ok(file) = file else { return };
    for (id, t) in file.index().iter() {
        let mut bytes = vec![0; t.bytes().unwrap() as usize];
        file.read_rows(id, 0..t.rows(), &mut bytes).unwrap();
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        ".{0,12}".prop_map(Value::String),
        array().prop_map(Value::Array),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    use prop::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..4).prop_map(Array::U8),
        vec(any::<i8>(), 0..4).prop_map(Array::I8),
        vec(any::<u16>(), 0..4).prop_map(Array::U16),
        vec(any::<i16>(), 0..4).prop_map(Array::I16),
        vec(any::<u32>(), 0..4).prop_map(Array::U32),
        vec(any::<i32>(), 0..4).prop_map(Array::I32),
        vec(any::<u64>(), 0..4).prop_map(Array::U64),
        vec(any::<i64>(), 0..4).prop_map(Array::I64),
        vec(any::<f32>(), 0..4).prop_map(Array::F32),
        vec(any::<f64>(), 0..4).prop_map(Array::F64),
        vec(any::<bool>(), 0..4).prop_map(Array::Bool),
        vec(".{0,8}", 0..4).prop_map(Array::String),
    ]
}

const DTYPES: [DType; 20] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q2_K,
    DType::Q3_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
];

proptest! {
    #[test]
    fn what_is_written_is_read(
        entries in prop::collection::btree_map("[a-z.]{1,10}", value(), 0..6),
        tensors in prop::collection::btree_map("[a-z.]{1,10}", (0..20usize, 0..3u64, prop::collection::vec(0..3u64, 0..4)), 0..6),
        alignment in prop::option::of(0..8u32),
    ) {
        let mut metadata = Metadata::default();
        for (key, value) in &entries {
            metadata.set(key, value.clone());
        }
        if let Some(log2) = alignment {
            metadata.set("general.alignment", Value::U32(1 << log2));
        }
        let infos: Vec<_> = tensors
            .iter()
            .map(|(name, (d, blocks, outer))| {
                let dtype = DTYPES[*d];
                let mut shape = outer.clone();
                shape.push(blocks * dtype.block_len() as u64);
                info(name, dtype, &shape)
            })
            .collect();
        let f = open(write(&metadata, &infos)).unwrap();
        prop_assert_eq!(f.metadata().len(), metadata.len());
        for ((k, a), (l, b)) in f.metadata().iter().zip(metadata.iter()) {
            prop_assert_eq!(k, l);
            prop_assert_eq!(format!("{a:?}"), format!("{b:?}")); // NaN equals NaN here
        }
        for t in &infos {
            let id = f.index().find(&t.name).unwrap();
            prop_assert_eq!(f.index().get(id), t);
            let mut out = vec![0; t.bytes().unwrap() as usize];
            f.read_rows(id, 0..t.rows(), &mut out).unwrap();
            prop_assert_eq!(out, counting(t));
        }
    }

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = small();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_all(open(bytes));
    }
}
