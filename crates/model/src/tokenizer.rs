//! Text to token ids and back, from `tokenizer.json` or from GGUF's own fields.

mod bytes;
mod from_gguf;
mod pre;
mod sentencepiece;
mod to_gguf;

use bytes::Spelling;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use std::{collections::HashSet, sync::Arc};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl, models::bpe::BPE};

/// Ids above this are refused: a table has an entry for each.
const MAX_VOCAB: usize = 1 << 24;

/// The whole `tokenizer.json` inside a GGUF file; llama.cpp knows the key.
const EMBEDDED_JSON: &str = "tokenizer.huggingface.json";
/// Our own key: the whole `tokenizer_config.json`.
const EMBEDDED_CONFIG: &str = "coffer.huggingface.tokenizer_config";

/// A byte-pair tokenizer. Building one from GGUF makes the equivalent `tokenizer.json`, so there is one code path.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

/// Byte pairs, and nothing else: a model of an unknown kind would be read twice to find its kind, which takes most of the time to load
/// a small model.
type BytePairs = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

struct Inner {
    bpe: BytePairs,
    /// Text of `tokenizer.json`.
    json: String,
    /// Text of `tokenizer_config.json`, and the same parsed.
    config_text: Option<String>,
    config: Map<String, Value>,
    /// BOS and EOS to put around a text where the configuration says so itself; else the post-processor does.
    framing: Option<Framing>,
    /// What each id stands for in running text.
    bytes: Vec<Vec<u8>>,
}

struct Framing {
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` (and `tokenizer_config.json` for `add_bos_token` and the special tokens).
    ///
    /// # Errors
    /// Returns [`TokenizerError`] if the files are malformed or hold anything but byte pairs over bytes or SentencePiece.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let json = text(tokenizer, "tokenizer.json")?.to_owned();
        let outline: Outline = serde_json::from_str(&json).map_err(|e| invalid(format!("tokenizer.json: invalid JSON: {e}")))?;
        outline.model.check()?;
        let config_text = config.map(|bytes| text(bytes, "tokenizer_config.json").map(str::to_owned)).transpose()?;
        let config = match config_text.as_deref().map(serde_json::from_str) {
            None => Map::new(),
            Some(Ok(Value::Object(map))) => map,
            Some(Ok(_)) => return Err(invalid("tokenizer_config.json: must hold a JSON object")),
            Some(Err(e)) => return Err(invalid(format!("tokenizer_config.json: invalid JSON: {e}"))),
        };
        let mut bpe: BytePairs = serde_json::from_str(&json).map_err(|e| invalid(format!("tokenizer.json: {e}")))?;
        bpe.with_padding(None);
        bpe.with_truncation(None).map_err(|e| invalid(format!("tokenizer.json: {e}")))?;
        let bytes = byte_table(&bpe, Spelling::of(&outline.decoder)?)?;
        let framing = framing(&bpe, &config)?;
        Ok(Self { inner: Arc::new(Inner { bpe, json, config_text, config, framing, bytes }) })
    }

    /// Ids of `text`. Special tokens written in the text are recognised; `add_special` adds BOS and the like if the model
    /// wants them. A rendered chat template already holds them.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let framing = self.inner.framing.as_ref().filter(|_| add_special);
        let encoding = self.inner.bpe.encode_fast(text, add_special && framing.is_none());
        let encoding = encoding.map_err(|e| invalid(format!("text cannot be encoded: {e}")))?;
        let Some(Framing { bos, eos }) = framing else { return Ok(encoding.get_ids().to_vec()) };
        Ok(bos.iter().chain(encoding.get_ids()).chain(eos).copied().collect())
    }

    /// Text of `ids`, special tokens left out; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let known: Vec<u32> = ids.iter().copied().filter(|&id| (id as usize) < self.inner.bytes.len()).collect();
        self.inner.bpe.decode(&known, true).unwrap_or_default()
    }

    /// The bytes that token `id` stands for in running text; empty for special tokens and unknown ids.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.inner.bytes.get(id as usize).cloned().unwrap_or_default()
    }

    /// The token as written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.bpe.id_to_token(id)
    }

    /// The token as answers show it: its bytes, or its name in the vocabulary if it stands for none.
    pub fn token_text(&self, id: u32) -> String {
        let bytes = self.token_bytes(id);
        if bytes.is_empty() { self.token(id).unwrap_or_default() } else { String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// The id of a token as written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.bpe.token_to_id(token)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.bytes.len()
    }

    /// A token that `tokenizer_config.json` names, e.g. `bos_token`.
    pub fn named(&self, key: &str) -> Option<&str> {
        named(&self.inner.config, key)
    }

    /// The chat template of `tokenizer_config.json`; of several, the one called `default`.
    pub fn chat_template(&self) -> Option<&str> {
        match self.inner.config.get("chat_template")? {
            Value::String(source) => Some(source),
            Value::Array(named) => named.iter().find(|t| t["name"] == "default")?["template"].as_str(),
            _ => None,
        }
    }
}

/// Why a tokenizer was refused or a text could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not a tokenizer that we understand.
    #[error("tokenizer: {0}")]
    Invalid(String),
}

fn invalid(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid(reason.into())
}

fn text<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, TokenizerError> {
    std::str::from_utf8(bytes).map_err(|e| invalid(format!("{file}: not UTF-8 at byte {}", e.valid_up_to())))
}

/// What is looked at before the whole is read.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    model: ModelOutline,
    #[serde(default)]
    decoder: Value,
}

#[derive(Default, Deserialize)]
struct ModelOutline {
    #[serde(default)]
    r#type: Value,
    #[serde(default)]
    dropout: Value,
    merges: Option<IgnoredAny>,
}

impl ModelOutline {
    /// Only byte pairs, and nothing random.
    fn check(&self) -> Result<(), TokenizerError> {
        // Older files leave the type out where there are merges.
        let kind = self.r#type.as_str().unwrap_or(if self.merges.is_some() { "BPE" } else { "absent" });
        if kind != "BPE" {
            return Err(invalid(format!("tokenizer.json: model type `{kind}` is not supported; supported: BPE")));
        }
        match self.dropout.as_f64() {
            Some(p) if p != 0.0 => Err(invalid(format!("tokenizer.json: model.dropout is {p}: encoding would be random"))),
            _ => Ok(()),
        }
    }
}

fn byte_table(bpe: &BytePairs, spelling: Spelling) -> Result<Vec<Vec<u8>>, TokenizerError> {
    let vocab = bpe.get_vocab(true);
    let size = vocab.values().max().map_or(0, |&id| id as usize + 1);
    if size > MAX_VOCAB {
        return Err(invalid(format!("tokenizer.json: id {} is above the limit of {MAX_VOCAB}", size - 1)));
    }
    let added = bpe.get_added_tokens_decoder();
    let special: HashSet<u32> = added.iter().filter(|(_, t)| t.special).map(|(&id, _)| id).collect();
    let mut table = vec![Vec::new(); size];
    for (token, id) in vocab.into_iter().filter(|(_, id)| !special.contains(id)) {
        let literal = added.contains_key(&id);
        table[id as usize] = if literal { token.into_bytes() } else { spelling.bytes(&token) };
    }
    Ok(table)
}

/// `add_bos_token` and `add_eos_token` overrule the post-processor, as in transformers.
fn framing(bpe: &BytePairs, config: &Map<String, Value>) -> Result<Option<Framing>, TokenizerError> {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let token = |wanted: Option<bool>, key: &str| match named(config, key).filter(|_| wanted == Some(true)) {
        None => Ok(None),
        Some(token) => {
            let absent = || invalid(format!("tokenizer_config.json: {key} `{token}` is not in the vocabulary"));
            bpe.token_to_id(token).map(Some).ok_or_else(absent)
        }
    };
    Ok(Some(Framing { bos: token(bos, "bos_token")?, eos: token(eos, "eos_token")? }))
}

/// A token as a string, or as an object with `content`.
fn named<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value["content"].as_str())
}
