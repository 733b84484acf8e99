//! What is asked.

use super::sign;
use crate::{
    certify,
    error::{AssessError, Named},
};
use coffer_model::chat::Message;
use coffer_store::{Model, Shuffle};

/// Tokens of a question cut from a text.
const LENGTH: usize = 48;
/// Tokens by which the questions of a certificate grow.
const STEP: usize = 8;

/// A prompt whose next token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// What the user says, where the prompt is a conversation: the endpoint makes the same tokens of it.
    pub said: Option<String>,
}

/// `count` pieces of `text`, in an order that depends on `seed`: nobody can prepare for them.
///
/// # Errors
/// The model has no tokenizer, or the text is too short.
pub fn questions_of_text(name: &str, model: &Model, text: &str, count: usize, seed: u64) -> Result<Vec<Question>, AssessError> {
    let tokenizer = model.tokenizer.as_ref().ok_or_else(|| AssessError::NoTokenizer { model: name.to_owned() })?;
    let start = tokenizer.encode("", true).of(name)?;
    let tokens = tokenizer.encode(text, false).of(name)?;
    let length = LENGTH.min(model.config.context.saturating_sub(start.len())).max(1);
    let piece = |piece: &[u32]| Question { tokens: [&start, piece].concat(), said: None };
    chosen(tokens.chunks_exact(length).map(piece).collect(), count, seed)
}

/// As [`questions_of_text`], each said by a user: for endpoints that take conversations alone.
///
/// # Errors
/// As [`questions_of_text`], or the model has no chat template.
pub fn questions_of_chat(name: &str, model: &Model, text: &str, count: usize, seed: u64) -> Result<Vec<Question>, AssessError> {
    let (Some(tokenizer), Some(template)) = (&model.tokenizer, &model.template) else {
        return Err(AssessError::NoTemplate { model: name.to_owned() });
    };
    let mut asked = Vec::new();
    for piece in tokenizer.encode(text, false).of(name)?.chunks_exact(LENGTH) {
        let said = tokenizer.decode(piece).trim().to_owned();
        let message = Message { role: "user".into(), content: said.clone() };
        let prompt =
            template.render(&[message], true).map_err(|e| AssessError::Template { model: name.into(), why: e.to_string() })?;
        let tokens = tokenizer.encode(&prompt, false).of(name)?;
        if tokens.len() <= model.config.context {
            asked.push(Question { tokens, said: Some(said) });
        }
    }
    chosen(asked, count, seed)
}

/// `count` beginnings of the questions that certificates ask, likewise.
///
/// # Errors
/// The model's tokenizer fails, or there are fewer.
pub fn questions_of_certificates(name: &str, model: &Model, count: usize, seed: u64) -> Result<Vec<Question>, AssessError> {
    let mut asked = Vec::new();
    for question in certify::questions(name, model, model.config.context)? {
        let lengths = (STEP..=question.tokens.len()).step_by(STEP);
        asked.extend(lengths.map(|n| Question { tokens: question.tokens[..n].to_vec(), said: None }));
    }
    chosen(asked, count, seed)
}

fn chosen(asked: Vec<Question>, count: usize, seed: u64) -> Result<Vec<Question>, AssessError> {
    if count == 0 || count > asked.len().min(sign::MOST) {
        return Err(AssessError::Questions { wanted: count, most: asked.len().min(sign::MOST) });
    }
    let order = Shuffle::new(asked.len() as u64, seed, 0);
    Ok(order.iter().take(count).filter_map(|at| asked.get(at as usize).cloned()).collect())
}
