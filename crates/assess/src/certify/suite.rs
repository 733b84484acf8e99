//! The questions that every certificate asks. Changing one changes no old certificate: each carries its own tokens.

use crate::error::{AssessError, Named};
use coffer_model::chat::Message;
use coffer_store::Model;

/// Tokens of a question at most: longer than one pass, and than several tiles of attention.
const LONGEST: usize = 544;

const PROSE: &str = "The keeper of the light had not slept since the storm began. He counted the ships that passed below him, \
    wrote each of them into his book, and when the morning came he found that he had written one name twice. \"It is \
    nothing,\" he said aloud; but his hand, as he closed the book, was not steady.";
const SIGNS: &str = "fn main() {\n\tlet x = 3.14e-7; // naïve façade, 東京 – Ελλάδα, привет, שלום\r\n}\n\n  {\"a\": [1, 22, 333]} ½ µ 👩‍👩‍👧 #!/bin/sh";

/// Token ids to run.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    /// The text that they were made from.
    pub(crate) text: Option<&'static str>,
    pub(crate) tokens: Vec<u32>,
}

/// The questions that fit into `context`: two texts and a conversation if the model can read, ids that cover the
/// vocabulary, and a long sequence.
pub(crate) fn questions(name: &str, model: &Model, context: usize) -> Result<Vec<Question>, AssessError> {
    let longest = LONGEST.min(context);
    let mut questions = Vec::new();
    let mut ask = |name, text, mut tokens: Vec<u32>| {
        tokens.truncate(longest);
        if !tokens.is_empty() {
            questions.push(Question { name, text, tokens });
        }
    };
    if let Some(tokenizer) = &model.tokenizer {
        for (case, text) in [("prose", PROSE), ("signs", SIGNS)] {
            ask(case, Some(text), tokenizer.encode(text, true).of(name)?);
        }
        let conversation = [("user", "Who keeps the light?"), ("assistant", "The keeper."), ("user", "Since when?")];
        let conversation = conversation.map(|(role, content)| Message { role: role.into(), content: content.into() });
        // A template that refuses this conversation has no such question.
        if let Some(Ok(chat)) = model.template.as_ref().map(|t| t.render(&conversation, true)) {
            ask("chat", None, tokenizer.encode(&chat, false).of(name)?);
        }
    }
    ask("ids", None, spread(model.config.vocab, 64));
    ask("long", None, spread(model.config.vocab, longest));
    Ok(questions)
}

/// `n` ids all over the vocabulary: steps of the golden ratio, the same on every machine.
fn spread(vocab: usize, n: usize) -> Vec<u32> {
    let fraction = |i: u64| (i * 0x9E37_79B9) & 0xFFFF_FFFF;
    (1..=n as u64).map(|i| ((fraction(i) * vocab as u64) >> 32) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cover_the_vocabulary_and_stay_inside() {
        for vocab in [1, 7, 4096, 151_936] {
            let ids = spread(vocab, 1000);
            assert!(ids.iter().all(|&id| (id as usize) < vocab));
            let quarter = |q: usize| ids.iter().filter(|&&id| id as usize * 4 / vocab == q).count();
            assert!(vocab < 8 || (0..4).all(|q| (230..270).contains(&quarter(q))));
        }
    }
}
