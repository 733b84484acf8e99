//! Token ids against known answers of Hugging Face's `tokenizers`, and the way through GGUF and back.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use coffer_checkpoint::gguf::{Array, Metadata, Value};
use coffer_model::Tokenizer;
use proptest::prelude::*;
use std::{collections::HashMap, path::PathBuf};

const NASTY: &str = include_str!("data/nasty.txt");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn scribe() -> Tokenizer {
    let dir = root().join("assets/models/scribe-8m");
    let config = std::fs::read(dir.join("tokenizer_config.json")).unwrap();
    Tokenizer::from_json(&std::fs::read(dir.join("tokenizer.json")).unwrap(), Some(&config)).unwrap()
}

/// FNV-1a over the ids as little-endian bytes.
fn fingerprint(ids: &[u32]) -> u64 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

fn bytes_of(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect()
}

#[test]
fn nasty_text_has_the_ids_of_tokenizers() {
    let ids = scribe().encode(NASTY, false).unwrap();
    assert_eq!((ids.len(), fingerprint(&ids)), (1479, 0x7f03_d3c8_9048_46f4));
}

#[test]
fn long_texts_have_the_ids_of_tokenizers() {
    let shared = std::env::var_os("COFFER_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    if !shared.is_dir() {
        return println!("skipped: {} is absent", shared.display());
    }
    let tokenizer = scribe();
    for (name, count, print) in [
        ("calibration.txt", 171_390, 0x4e71_1a56_a834_0e5c),
        ("detective.txt", 1_046_436, 0xf552_ca57_216a_dd78),
        ("holdout.txt", 285_727, 0x8408_ed98_73b1_b3d9_u64),
        ("verse.txt", 410_759, 0x9377_a4b8_113f_30ce),
    ] {
        let text = std::fs::read_to_string(shared.join("text").join(name)).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_eq!((ids.len(), fingerprint(&ids)), (count, print), "{name}");
    }
}

#[test]
fn bytes_of_tokens_are_the_text_without_special_tokens() {
    let tokenizer = scribe();
    let ids = tokenizer.encode(NASTY, false).unwrap();
    let plain = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().fold(NASTY.to_owned(), |t, s| t.replace(s, ""));
    assert_eq!(String::from_utf8(bytes_of(&tokenizer, &ids)).unwrap(), plain);
    assert_eq!(tokenizer.decode(&ids), plain);
    assert_eq!(tokenizer.decode(&[u32::MAX]), "");
    assert!(tokenizer.token_bytes(0).is_empty() && tokenizer.token_bytes(u32::MAX).is_empty());
}

#[test]
fn gguf_fields_alone_give_the_same_ids_and_the_embedded_file_gives_the_same_bytes() {
    let tokenizer = scribe();
    let mut metadata = Metadata::default();
    tokenizer.to_gguf(4100, &mut metadata).unwrap();
    let whole = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(whole.to_hf(None), tokenizer.to_hf(None));
    let rebuilt = Tokenizer::from_gguf(&without_embedded(&metadata)).unwrap();
    assert_eq!(rebuilt.encode(NASTY, true).unwrap(), tokenizer.encode(NASTY, true).unwrap());
    assert_eq!(metadata.string("tokenizer.ggml.pre"), Some("gpt-2"));
    assert_eq!(rebuilt.token(4099).as_deref(), Some("[PAD4099]"));
}

fn without_embedded(metadata: &Metadata) -> Metadata {
    let mut bare = Metadata::default();
    let kept = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml."));
    kept.for_each(|(key, value)| bare.set(key, value.clone()));
    bare
}

fn broken(change: impl Fn(&mut Metadata)) -> String {
    let mut metadata = Metadata::default();
    scribe().to_gguf(4096, &mut metadata).unwrap();
    change(&mut metadata);
    Tokenizer::from_gguf(&metadata).err().expect("refused").to_string()
}

#[test]
fn malformed_gguf_fields_are_refused_by_name() {
    let text = |s: &str| Value::String(s.into());
    let list = |l: &[&str]| Value::Array(Array::String(l.iter().map(|s| (*s).to_owned()).collect()));
    let mut bare = Metadata::default();
    scribe().to_gguf(4096, &mut bare).unwrap();
    let bare = without_embedded(&bare);
    let error = |key: &str, value: Value| {
        let mut metadata = bare.clone();
        metadata.set(key, value);
        Tokenizer::from_gguf(&metadata).err().expect(key).to_string()
    };
    assert!(error("tokenizer.ggml.model", text("t5")).contains("t5"));
    assert!(error("tokenizer.ggml.pre", text("bloom")).contains("bloom"));
    assert!(error("tokenizer.ggml.tokens", list(&["a", "a"])).contains("twice"));
    assert!(error("tokenizer.ggml.tokens", Value::U32(3)).contains("tokens"));
    assert!(error("tokenizer.ggml.tokens", list(&[])).contains("0 tokens"));
    assert!(error("tokenizer.ggml.merges", list(&["ab"])).contains("merges"));
    assert!(error("tokenizer.ggml.merges", list(&[""])).contains("merges"));
    assert!(error("tokenizer.ggml.merges", list(&["no such"])).contains("tokenizer.json"));
    assert!(error("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1]))).contains("token_type"));
    assert!(error("tokenizer.ggml.bos_token_id", Value::U32(99_999)).contains("99999"));
    assert!(error("tokenizer.ggml.add_bos_token", Value::U32(1)).contains("add_bos_token"));
    assert!(error("tokenizer.ggml.model", text("llama")).contains("scores"));
    assert!(broken(|m| m.set("tokenizer.ggml.tokens", list(&["x"]))).contains("differ"));
    assert!(broken(|m| m.set("tokenizer.huggingface.json", text("{"))).contains("JSON"));
}

#[test]
fn malformed_files_are_refused() {
    let good = std::fs::read_to_string(root().join("assets/models/scribe-8m/tokenizer.json")).unwrap();
    let error = |text: &str| Tokenizer::from_json(text.as_bytes(), None).err().expect("refused").to_string();
    assert!(Tokenizer::from_json(&[0xff, 0xfe], None).err().unwrap().to_string().contains("UTF-8"));
    assert!(error("").contains("JSON"));
    assert!(error(&good[..good.len() / 2]).contains("JSON"));
    assert!(error(&good.replace("\"BPE\"", "\"Unigram\"")).contains("Unigram"));
    assert!(error(&good.replace("\"dropout\": null", "\"dropout\": 0.5")).contains("dropout"));
    assert!(error(&good.replace("\"ByteLevel\"", "\"WordPiece\"")).contains("tokenizer.json"));
    assert!(error(&good.replace("\"!\": 3,", "\"!\": 4294967295,")).contains("limit"));
    assert!(Tokenizer::from_json(good.as_bytes(), Some(b"[]")).is_err());
    let config = br#"{"add_bos_token": true, "bos_token": "<nowhere>"}"#;
    assert!(Tokenizer::from_json(good.as_bytes(), Some(config)).err().unwrap().to_string().contains("<nowhere>"));
}

/// A small SentencePiece vocabulary: specials, 256 bytes, letters, and words with scores.
fn sentence_piece() -> (Metadata, Vec<String>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "é"].map(String::from));
    tokens.extend(["▁a", "ab", "bc", "abc", "▁ab", "aa", "▁▁", "caé", "ca"].map(String::from));
    let scores = (0..tokens.len()).map(|i| if i < 264 { 0.0 } else { -(i as f32) }).collect();
    let kinds = (0..tokens.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 259 { 6 } else { 1 })).collect();
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.clone())));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    (metadata, tokens)
}

/// SentencePiece as its paper has it: again and again the neighbours that make the best-scored piece, leftmost first.
fn slow_ids(tokens: &[String], text: &str) -> Vec<u32> {
    let ids: HashMap<&str, u32> = tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i as u32)).collect();
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut parts: Vec<String> = if text == "▁" { Vec::new() } else { text.chars().map(String::from).collect() };
    loop {
        let joined = |i: usize| ids.get(format!("{}{}", parts[i], parts[i + 1]).as_str()).copied();
        // Scores fall with the id.
        let best = (0..parts.len().saturating_sub(1)).filter_map(|i| Some((joined(i)?, i))).min();
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    let ids_of = |part: &String| match ids.get(part.as_str()) {
        Some(&id) => vec![id],
        None => part.bytes().map(|b| 3 + u32::from(b)).collect(),
    };
    parts.iter().flat_map(ids_of).collect()
}

proptest! {
    #[test]
    fn sentencepiece_merges_as_the_plain_algorithm(text in "[abcé x語]{1,24}") {
        let (metadata, tokens) = sentence_piece();
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(&ids, &slow_ids(&tokens, &text));
        prop_assert_eq!(String::from_utf8(bytes_of(&tokenizer, &ids)).unwrap(), format!(" {text}"));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn sentencepiece_goes_to_gguf_and_back() {
    let (metadata, tokens) = sentence_piece();
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab", true).unwrap()[0], 1);
    let mut written = Metadata::default();
    tokenizer.to_gguf(tokens.len(), &mut written).unwrap();
    for key in ["tokens", "token_type", "model"].map(|k| format!("tokenizer.ggml.{k}")) {
        assert_eq!(written.get(&key), metadata.get(&key), "{key}");
    }
    let again = Tokenizer::from_gguf(&without_embedded(&written)).unwrap();
    for text in ["abc caé bc", "  aabab", "", "語"] {
        assert_eq!(again.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
    }
}
