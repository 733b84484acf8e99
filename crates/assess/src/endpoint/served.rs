//! What an endpoint answers, in each of the forms that servers give it.

use coffer_model::Tokenizer;
use serde_json::Value;
use std::collections::HashMap;

/// Most tokens of an answer that are looked at.
const MOST: usize = 64;

/// The most likely tokens after a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// `system_fingerprint`.
    pub fingerprint: Option<String>,
    /// Tokens with their log probabilities, each token once; at least one.
    pub likely: Vec<(u32, f32)>,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Without log probabilities.
    #[error("the answer holds no log probabilities; the endpoint must support `logprobs`")]
    NoLogprobs,
    /// Its tokens are none of the model's.
    #[error("none of the tokens in the answer is in the model's vocabulary: {0}")]
    Unknown(String),
}

/// Finds tokens by what endpoints call them.
pub struct Vocabulary {
    size: usize,
    /// By its bytes, or its name if it stands for none; `None`: several tokens have these.
    by_bytes: HashMap<Vec<u8>, Option<u32>>,
}

impl Vocabulary {
    /// The tokens of a model with `size` of them.
    pub fn new(tokenizer: &Tokenizer, size: usize) -> Self {
        let mut by_bytes = HashMap::new();
        for id in 0..u32::try_from(size).unwrap_or(u32::MAX) {
            let bytes = tokenizer.token_bytes(id);
            let name = || tokenizer.token(id).unwrap_or_default().into_bytes();
            by_bytes.entry(if bytes.is_empty() { name() } else { bytes }).and_modify(|known| *known = None).or_insert(Some(id));
        }
        Self { size, by_bytes }
    }

    /// `token_id:7` is how vLLM writes tokens if it is asked to. U+FFFD stands for pieces of characters: any of many tokens.
    pub(super) fn named(&self, text: &str) -> Option<u32> {
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        let number = || self.numbered(text.strip_prefix("token_id:")?.parse().ok()?);
        self.by_bytes.get(text.as_bytes()).copied().flatten().or_else(number)
    }

    fn numbered(&self, id: u64) -> Option<u32> {
        u32::try_from(id).ok().filter(|&id| (id as usize) < self.size)
    }

    /// An entry of the newer form: with the id (llama-server), the bytes (chats), or the text alone.
    pub(super) fn find(&self, entry: &Value) -> Option<u32> {
        let id = entry["id"].as_u64().and_then(|id| self.numbered(id));
        let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
        let bytes = || entry["bytes"].as_array()?.iter().map(byte).collect::<Option<Vec<u8>>>();
        id.or_else(|| self.by_bytes.get(&bytes()?).copied()?).or_else(|| self.named(entry["token"].as_str()?))
    }
}

impl Served {
    /// Reads the answer to a completion or a chat: log probabilities as chats have them (`content`, of llama-server also in completions),
    /// or as completions do (`top_logprobs`, a map from texts).
    ///
    /// # Errors
    /// It has none, or knows none of the model's tokens.
    pub fn read(answer: &Value, vocabulary: &Vocabulary) -> Result<Self, Unanswered> {
        let logprobs = &answer["choices"][0]["logprobs"];
        let newer = || {
            let first = logprobs["content"].get(0)?;
            let top = first["top_logprobs"].as_array().map(Vec::as_slice).unwrap_or_default();
            let entries = top.iter().chain([first]);
            Some(entries.map(|e| (e["token"].to_string(), vocabulary.find(e), e["logprob"].as_f64())).collect::<Vec<_>>())
        };
        let older = || {
            let top = logprobs["top_logprobs"].get(0)?.as_object()?.iter();
            let first = (logprobs["tokens"][0].as_str().unwrap_or_default(), &logprobs["token_logprobs"][0]);
            let entries = top.map(|(text, p)| (text.as_str(), p)).chain([first]);
            Some(entries.map(|(text, p)| (text.to_owned(), vocabulary.named(text), p.as_f64())).collect())
        };
        let entries: Vec<_> = newer().or_else(older).ok_or(Unanswered::NoLogprobs)?;
        let mut likely: Vec<(u32, f32)> = Vec::new();
        for (_, token, logprob) in entries.iter().take(MOST) {
            // Some write "impossible" as a huge negative number.
            let sound = |p: &f64| (-1000.0..=1e-3).contains(p);
            let Some((token, logprob)) = token.zip(logprob.filter(sound)) else { continue };
            if !likely.iter().any(|(known, _)| *known == token) {
                likely.push((token, logprob as f32));
            }
        }
        let names = || entries.iter().map(|(name, ..)| name.as_str()).take(5).collect::<Vec<_>>().join(", ");
        match likely.is_empty() {
            true if entries.is_empty() => Err(Unanswered::NoLogprobs),
            true => Err(Unanswered::Unknown(names())),
            false => Ok(Self { fingerprint: answer["system_fingerprint"].as_str().map(str::to_owned), likely }),
        }
    }
}
