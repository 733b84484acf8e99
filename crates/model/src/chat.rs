//! Chat templates in Jinja, as `tokenizer_config.json` and GGUF carry them.

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A compiled chat template.
pub struct ChatTemplate;

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of those tokens.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let _ = (source, bos, eos);
        todo!()
    }
    /// Template text.
    pub fn source(&self) -> &str {
        todo!()
    }
    /// Renders a conversation; `generate` opens the assistant's turn.
    pub fn render(&self, messages: &[Message], generate: bool) -> Result<String, TemplateError> {
        let _ = (messages, generate);
        todo!()
    }
}

/// Why a template was refused.
#[derive(Debug, thiserror::Error)]
#[error("chat template: {0}")]
pub struct TemplateError(pub String);
