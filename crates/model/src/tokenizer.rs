//! Text to token ids and back, from `tokenizer.json` or from GGUF's own fields.

use coffer_checkpoint::gguf::Metadata;

/// A tokenizer. Building one from GGUF makes the equivalent `tokenizer.json`, so there is one code path.
#[derive(Clone)]
pub struct Tokenizer;

impl Tokenizer {
    /// Reads `tokenizer.json` (and `tokenizer_config.json` for `add_bos_token` and the special tokens).
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let _ = (tokenizer, config);
        todo!()
    }
    /// Reads GGUF metadata: GPT-2 style with pre-types, SentencePiece style.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let _ = metadata;
        todo!()
    }
    /// `tokenizer.json` and `tokenizer_config.json`; `template` goes into the second.
    pub fn to_hf(&self, template: Option<&str>) -> (String, String) {
        let _ = template;
        todo!()
    }
    /// Adds the tokenizer's GGUF fields.
    pub fn to_gguf(&self, metadata: &mut Metadata) -> Result<(), TokenizerError> {
        let _ = metadata;
        todo!()
    }
    /// Ids of `text`. Special tokens written in the text are recognised; `add_special` adds BOS and the like if the model wants them.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let _ = (text, add_special);
        todo!()
    }
    /// Text of `ids`, special tokens left out; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let _ = ids;
        todo!()
    }
    /// The bytes that token `id` stands for in running text; empty for special tokens and unknown ids.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let _ = id;
        todo!()
    }
    /// The token as written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        let _ = id;
        todo!()
    }
    /// The id of a token as written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        let _ = token;
        todo!()
    }
    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        todo!()
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
