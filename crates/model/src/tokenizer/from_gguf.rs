//! From GGUF's `tokenizer.ggml.*` fields to the `tokenizer.json` that does the same.

use super::{EMBEDDED_CONFIG, EMBEDDED_JSON, MAX_VOCAB, Tokenizer, TokenizerError, invalid, pre::PreType, sentencepiece};
use coffer_checkpoint::gguf::{Array, Metadata, Value};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

impl Tokenizer {
    /// Reads GGUF metadata: GPT-2 style with pre-types, SentencePiece style.
    ///
    /// # Errors
    /// Returns [`TokenizerError`] if a field is missing, malformed, contradicts another, or names an unknown pre-type.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let vocabulary = Vocabulary::read(metadata)?;
        if let (Some(json), Some(config)) = (metadata.string(EMBEDDED_JSON), metadata.string(EMBEDDED_CONFIG)) {
            let tokenizer = Self::from_json(json.as_bytes(), Some(config.as_bytes()))?;
            vocabulary.check_equals(&tokenizer)?;
            return Ok(tokenizer);
        }
        let (parts, defaults) = match metadata.string("tokenizer.ggml.model") {
            Some("gpt2") => byte_level(metadata, &vocabulary)?,
            Some("llama") => sentence_piece(metadata, &vocabulary)?,
            other => {
                let kind: String = other.unwrap_or("missing").chars().take(60).collect();
                return Err(invalid(format!("tokenizer.ggml.model is {kind}; supported: gpt2, llama")));
            }
        };
        let config = config(metadata, &vocabulary, defaults)?;
        let json = TokenizerJson {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: vocabulary.added(),
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            post_processor: post_processor(&vocabulary, &config),
            decoder: parts.decoder,
            model: parts.model,
        };
        let json = serde_json::to_string(&json).map_err(|e| invalid(e.to_string()))?;
        Self::from_json(json.as_bytes(), Some(format!("{:#}\n", Json::Object(config)).as_bytes()))
    }
}

/// `tokenizer.json`, in the order of its fields.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Json,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: ModelJson<'a>,
}

#[derive(Serialize)]
struct ModelJson<'a> {
    r#type: &'static str,
    dropout: Option<()>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "numbered")]
    vocab: &'a [String],
    merges: Vec<(&'a str, &'a str)>,
}

/// A map from each token to its place in the list.
fn numbered<S: Serializer>(tokens: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// What differs between the two styles.
struct Parts<'a> {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    model: ModelJson<'a>,
}

/// What holds where the file is silent.
struct Defaults {
    add_bos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
}

fn byte_level<'a>(metadata: &'a Metadata, vocabulary: &'a Vocabulary) -> Result<(Parts<'a>, Defaults), TokenizerError> {
    let kind = PreType::named(metadata.string("tokenizer.ggml.pre").unwrap_or("default"))?;
    let merges = strings(metadata, "tokenizer.ggml.merges")?;
    let merges = merges.iter().map(|m| merge(m)).collect::<Result<_, _>>()?;
    let (pre_tokenizer, normalizer) = kind.to_json();
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let model = model(vocabulary, merges, None, kind.ignore_merges);
    let defaults = Defaults { add_bos: kind.add_bos, bos: None, eos: None, unk: None };
    Ok((Parts { normalizer, pre_tokenizer, decoder, model }, defaults))
}

fn sentence_piece<'a>(metadata: &'a Metadata, vocabulary: &'a Vocabulary) -> Result<(Parts<'a>, Defaults), TokenizerError> {
    let scores = match metadata.get("tokenizer.ggml.scores") {
        Some(Value::Array(Array::F32(scores))) if scores.len() >= vocabulary.tokens.len() => scores,
        _ => return Err(invalid("tokenizer.ggml.scores: must be a list of floats as long as tokenizer.ggml.tokens")),
    };
    let mergeable = |&(i, _): &(usize, &String)| matches!(vocabulary.kinds[i], Kind::Normal | Kind::UserDefined);
    let pieces: Vec<(&str, f32)> =
        vocabulary.tokens.iter().enumerate().filter(mergeable).map(|(i, t)| (t.as_str(), scores[i])).collect();
    let prefix = flag(metadata, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unk = vocabulary.kinds.iter().position(|k| *k == Kind::Unknown).map(|i| i as u32);
    let merges = sentencepiece::merges(&pieces)?;
    let parts = Parts {
        normalizer: json!({"type": "Sequence", "normalizers": if prefix { vec![prepend, replace] } else { vec![replace] }}),
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: model(vocabulary, merges, unk.map(|id| vocabulary.tokens[id as usize].as_str()), false),
    };
    Ok((parts, Defaults { add_bos: true, bos: Some(1), eos: Some(2), unk }))
}

fn model<'a>(
    vocabulary: &'a Vocabulary,
    merges: Vec<(&'a str, &'a str)>,
    unk_token: Option<&'a str>,
    ignore_merges: bool,
) -> ModelJson<'a> {
    let (fuse_unk, byte_fallback) = (unk_token.is_some(), unk_token.is_some());
    ModelJson {
        r#type: "BPE",
        dropout: None,
        unk_token,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk,
        byte_fallback,
        ignore_merges,
        vocab: &vocabulary.tokens,
        merges,
    }
}

/// The two halves of `left right`; the left one is never empty.
fn merge(text: &str) -> Result<(&str, &str), TokenizerError> {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let cut = text[first..].find(' ').map(|at| at + first);
    cut.map(|at| (&text[..at], &text[at + 1..])).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        invalid(format!("tokenizer.ggml.merges: `{shown}` is not two pieces with a space between"))
    })
}

/// `tokenizer_config.json` with the special tokens and what is put around a text.
fn config(metadata: &Metadata, vocabulary: &Vocabulary, defaults: Defaults) -> Result<Map<String, Json>, TokenizerError> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("add_bos_token".into(), json!(flag(metadata, "tokenizer.ggml.add_bos_token")?.unwrap_or(defaults.add_bos)));
    config.insert("add_eos_token".into(), json!(flag(metadata, "tokenizer.ggml.add_eos_token")?.unwrap_or(false)));
    for (key, name, default) in [
        ("bos_token", "bos", defaults.bos),
        ("eos_token", "eos", defaults.eos),
        ("unk_token", "unknown", defaults.unk),
        ("pad_token", "padding", None),
    ] {
        let id = match metadata.get(&format!("tokenizer.ggml.{name}_token_id")) {
            None => default,
            Some(&Value::U32(id)) => Some(id),
            Some(_) => return Err(invalid(format!("tokenizer.ggml.{name}_token_id: must be a 32-bit number"))),
        };
        let Some(id) = id else { continue };
        let token = vocabulary.tokens.get(id as usize).ok_or_else(|| {
            invalid(format!("tokenizer.ggml.{name}_token_id is {id}, but there are {} tokens", vocabulary.tokens.len()))
        })?;
        config.insert(key.into(), json!(token));
    }
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    if let Some(template) = metadata.string("tokenizer.chat_template") {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(config)
}

/// Puts BOS and EOS around a text, for readers that go by `tokenizer.json` alone.
fn post_processor(vocabulary: &Vocabulary, config: &Map<String, Json>) -> Json {
    let wanted =
        |flag: &str, key: &str| config.get(key).filter(|_| config.get(flag) == Some(&json!(true))).and_then(Json::as_str);
    let (bos, eos) = (wanted("add_bos_token", "bos_token"), wanted("add_eos_token", "eos_token"));
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let special = |token: &str, side: u8| json!({"SpecialToken": {"id": token, "type_id": side}});
    let around = |name: &str, side: u8| {
        let text = json!({"Sequence": {"id": name, "type_id": side}});
        bos.map(|t| special(t, side)).into_iter().chain([text]).chain(eos.map(|t| special(t, side))).collect::<Vec<_>>()
    };
    let tokens: Map<String, Json> = [bos, eos]
        .into_iter()
        .flatten()
        .filter_map(|t| Some((t.to_owned(), json!({"id": t, "ids": [vocabulary.id(t)?], "tokens": [t]}))))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

/// `tokenizer.ggml.token_type`, as llama.cpp counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    fn read(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let tokens = strings(metadata, "tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.len() > MAX_VOCAB {
            return Err(invalid(format!(
                "tokenizer.ggml.tokens: {} tokens; between 1 and {MAX_VOCAB} are possible",
                tokens.len()
            )));
        }
        let kinds = match metadata.get("tokenizer.ggml.token_type") {
            None => vec![Kind::Normal; tokens.len()],
            Some(Value::Array(Array::I32(types))) if types.len() >= tokens.len() => {
                types.iter().take(tokens.len()).map(|&t| Kind::of(t)).collect()
            }
            Some(_) => return Err(invalid("tokenizer.ggml.token_type: must be a list of i32 as long as tokenizer.ggml.tokens")),
        };
        let name = |(i, t): (usize, &String)| if t.is_empty() { format!("[EMPTY_{i}]") } else { t.clone() };
        let tokens: Vec<String> = tokens.iter().enumerate().map(name).collect();
        let mut seen = std::collections::HashSet::with_capacity(tokens.len());
        match tokens.iter().position(|t| !seen.insert(t.as_str())) {
            Some(id) => Err(invalid(format!("tokenizer.ggml.tokens: token {id} (`{}`) occurs twice", tokens[id]))),
            None => Ok(Self { tokens, kinds }),
        }
    }

    fn id(&self, token: &str) -> Option<usize> {
        self.tokens.iter().position(|t| t == token)
    }

    /// Tokens that are found in a text before anything else.
    fn added(&self) -> Json {
        let kinds = self.tokens.iter().zip(&self.kinds).enumerate();
        kinds
            .filter(|(_, (_, kind))| matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined))
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != Kind::UserDefined,
                })
            })
            .collect()
    }

    /// An embedded `tokenizer.json` must have the very tokens that llama.cpp reads; padding may follow them.
    fn check_equals(&self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        let differs = |&id: &usize| match tokenizer.token(id as u32) {
            Some(token) => self.tokens[id] != token,
            None => self.kinds[id] != Kind::Unused,
        };
        match (0..self.tokens.len()).find(differs) {
            None if tokenizer.vocab_size() <= self.tokens.len() => Ok(()),
            None => Err(invalid(format!(
                "{EMBEDDED_JSON} has {} tokens, tokenizer.ggml.tokens has {}",
                tokenizer.vocab_size(),
                self.tokens.len()
            ))),
            Some(id) => {
                Err(invalid(format!("{EMBEDDED_JSON} and tokenizer.ggml.tokens differ at token {id} (`{}`)", self.tokens[id])))
            }
        }
    }
}

impl Kind {
    fn of(number: i32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

fn strings<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a [String], TokenizerError> {
    match metadata.get(key) {
        Some(Value::Array(Array::String(list))) => Ok(list),
        Some(_) => Err(invalid(format!("{key}: must be a list of strings"))),
        None => Err(invalid(format!("{key} is missing"))),
    }
}

fn flag(metadata: &Metadata, key: &str) -> Result<Option<bool>, TokenizerError> {
    match metadata.get(key) {
        None => Ok(None),
        Some(&Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(invalid(format!("{key}: must be true or false"))),
    }
}
