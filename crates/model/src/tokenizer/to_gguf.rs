//! From `tokenizer.json` to GGUF's `tokenizer.ggml.*` fields, and to the files of a Hugging Face directory.

use super::{
    EMBEDDED_CONFIG, EMBEDDED_JSON, Tokenizer, TokenizerError, bytes::Spelling, bytes::byte_piece, invalid, pre::PreType,
    sentencepiece,
};
use coffer_checkpoint::gguf::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

impl Tokenizer {
    /// `tokenizer.json` and `tokenizer_config.json`; `template` goes into the second. What was read is given back as it was.
    pub fn to_hf(&self, template: Option<&str>) -> (String, String) {
        let inner = &*self.inner;
        let unchanged = template.is_none() || template == self.chat_template();
        if let Some(text) = inner.config_text.as_ref().filter(|_| unchanged) {
            return (inner.json.clone(), text.clone());
        }
        let mut config = inner.config.clone();
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        if let Some(template) = template {
            config.insert("chat_template".into(), json!(template));
        }
        (inner.json.clone(), format!("{:#}\n", Json::Object(config)))
    }

    /// Adds the tokenizer's GGUF fields for an embedding of `rows` rows; ids without a token are padded as llama.cpp does.
    /// The original files are embedded beside them, so that nothing is lost on the way back.
    ///
    /// # Errors
    /// Returns [`TokenizerError`] if GGUF has no way to say what the tokenizer does.
    pub fn to_gguf(&self, rows: usize, metadata: &mut Metadata) -> Result<(), TokenizerError> {
        if self.vocab_size() > rows {
            return Err(invalid(format!("{} tokens, but the embedding has {rows} rows", self.vocab_size())));
        }
        let fields: Json = serde_json::from_str(&self.inner.json).map_err(|e| invalid(e.to_string()))?;
        let merges = merges(&fields)?;
        let spelling = Spelling::of(&fields["decoder"])?;
        match spelling {
            Spelling::ByteLevel => write_byte_level(&fields, &merges, metadata)?,
            Spelling::SentencePiece => self.write_sentence_piece(&fields, &merges, rows, metadata)?,
        }
        self.write_tokens(spelling, rows, metadata);
        self.write_framing(metadata)?;
        for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")] {
            if let Some(id) = self.named(key).and_then(|token| self.id(token)) {
                metadata.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
            }
        }
        metadata.set(EMBEDDED_JSON, Value::String(self.inner.json.clone()));
        metadata.set(EMBEDDED_CONFIG, Value::String(self.inner.config_text.clone().unwrap_or_else(|| "{}".into())));
        Ok(())
    }

    fn write_sentence_piece(
        &self,
        fields: &Json,
        merges: &[(String, String)],
        rows: usize,
        metadata: &mut Metadata,
    ) -> Result<(), TokenizerError> {
        let prefix = space_prefix(fields)?;
        let scores = sentencepiece::scores(merges);
        let score = |id: usize| self.token(id as u32).and_then(|token| scores.get(&token).copied()).unwrap_or(0.0);
        metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
        metadata.set("tokenizer.ggml.pre", Value::String("default".into()));
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32((0..rows).map(score).collect())));
        metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        Ok(())
    }

    fn write_tokens(&self, spelling: Spelling, rows: usize, metadata: &mut Metadata) {
        let added = self.inner.bpe.get_added_tokens_decoder();
        let unk = self.named("unk_token");
        let (tokens, kinds): (Vec<String>, Vec<i32>) = (0..rows as u32)
            .map(|id| match (self.token(id), added.get(&id)) {
                (None, _) => (format!("[PAD{id}]"), 5),
                (Some(token), Some(_)) if spelling == Spelling::SentencePiece && Some(token.as_str()) == unk => (token, 2),
                (Some(token), Some(added)) => (token, if added.special { 3 } else { 4 }),
                (Some(token), None) if spelling == Spelling::SentencePiece && byte_piece(&token).is_some() => (token, 6),
                (Some(token), None) => (token, 1),
            })
            .unzip();
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    }

    /// What is put around a text, found by putting it around one.
    fn write_framing(&self, metadata: &mut Metadata) -> Result<(), TokenizerError> {
        let (framed, plain) = (self.encode("a", true)?, self.encode("a", false)?);
        let at = framed.windows(plain.len().max(1)).position(|w| w == plain);
        let (before, after) = match at {
            Some(at) => (&framed[..at], &framed[at + plain.len()..]),
            None => return Err(invalid("the post-processor changes the text itself, which GGUF cannot say")),
        };
        for (name, found, key) in [("add_bos_token", before, "bos_token"), ("add_eos_token", after, "eos_token")] {
            let token = self.named(key).and_then(|token| self.id(token));
            if found.len() > 1 || found.first().is_some_and(|&id| Some(id) != token) {
                return Err(invalid(format!("puts {found:?} around a text, which GGUF's {name} cannot say")));
            }
            metadata.set(&format!("tokenizer.ggml.{name}"), Value::Bool(!found.is_empty()));
        }
        Ok(())
    }
}

fn write_byte_level(fields: &Json, merges: &[(String, String)], metadata: &mut Metadata) -> Result<(), TokenizerError> {
    if let Some((left, right)) = merges.iter().find(|(l, r)| l.contains(' ') || r.contains(' ')) {
        return Err(invalid(format!("the merge of `{left}` and `{right}` has a space in it, which GGUF cannot say")));
    }
    let joined = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::String(PreType::of(fields)?.name().into()));
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(joined)));
    Ok(())
}

/// Merges as older files (`"a b"`) and newer ones (`["a", "b"]`) write them.
fn merges(fields: &Json) -> Result<Vec<(String, String)>, TokenizerError> {
    let list = fields["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    list.iter().map(|m| pair(m).ok_or_else(|| invalid(format!("tokenizer.json: {m} is no merge")))).collect()
}

/// Whether a SentencePiece tokenizer puts a space before the text; what else it does before merging must be nothing.
fn space_prefix(fields: &Json) -> Result<bool, TokenizerError> {
    if fields["model"]["byte_fallback"] != true {
        return Err(invalid("model.byte_fallback is off, which GGUF's SentencePiece style cannot say"));
    }
    let normalizer = &fields["normalizer"];
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    let pre_tokenizer = &fields["pre_tokenizer"];
    let replaces = |s: &Json| s["type"] == "Replace" && s["pattern"]["String"] == " " && s["content"] == "▁";
    match (steps, pre_tokenizer["type"].as_str()) {
        ([prepend, replace], None) if prepend["type"] == "Prepend" && prepend["prepend"] == "▁" && replaces(replace) => {
            Ok(true)
        }
        ([replace], None) if replaces(replace) => Ok(false),
        ([Json::Null], Some("Metaspace")) if pre_tokenizer["split"] == false => Ok(pre_tokenizer["prepend_scheme"] != "never"),
        _ => Err(invalid("normalizer and pre_tokenizer have no counterpart in GGUF's SentencePiece style")),
    }
}
