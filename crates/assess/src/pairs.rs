//! Minimal pairs: does the model find the grammatical sentence more likely than the ungrammatical one?
//! (Warstadt et al., BLiMP, arXiv:1912.00582; whole-sentence log probabilities.)

use crate::{
    error::{AssessError, Named},
    fidelity::Loaded,
    forward,
};
use coffer_model::Tokenizer;

/// A grammatical sentence and one that differs from it in little and is not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Pair {
    /// The grammatical one.
    pub sentence_good: String,
    /// The other.
    pub sentence_bad: String,
}

/// Longest line of a file of pairs.
const MAX_LINE: usize = 64 << 10;

/// Reads JSON Lines in BLiMP's layout; other fields are ignored. `file` names it in errors.
///
/// # Errors
/// A line is longer than 64 KiB, no JSON object with both sentences, or has an empty one; or there is no line.
pub fn parse(text: &str, file: &str) -> Result<Vec<Pair>, AssessError> {
    let error = |line: usize, message: String| AssessError::Pairs { file: file.to_owned(), line: line + 1, message };
    let mut pairs = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if line.len() > MAX_LINE {
            return Err(error(i, format!("{} bytes in a line, at most {MAX_LINE}", line.len())));
        }
        let pair: Pair = serde_json::from_str(line).map_err(|e| error(i, e.to_string()))?;
        if pair.sentence_good.is_empty() || pair.sentence_bad.is_empty() {
            return Err(error(i, "an empty sentence".to_owned()));
        }
        pairs.push(pair);
    }
    if pairs.is_empty() { Err(error(0, "no pairs".to_owned())) } else { Ok(pairs) }
}

/// Answers of one model, and how they changed from a reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Pairs in which the grammatical sentence is more likely.
    pub right: u64,
    /// Pairs.
    pub total: u64,
    /// Right in the reference, wrong here; `None` without a reference.
    pub lost: Option<u64>,
    /// Wrong in the reference, right here.
    pub gained: Option<u64>,
}

impl Pairs {
    /// Counts answers (`true`: right); `reference` holds the same pairs' answers of the reference.
    pub fn count(answers: &[bool], reference: Option<&[bool]>) -> Self {
        let count =
            |was: bool, is: bool| reference.map(|r| r.iter().zip(answers).filter(|&(&a, &b)| a == was && b == is).count() as u64);
        Self {
            right: answers.iter().filter(|&&right| right).count() as u64,
            total: answers.len() as u64,
            lost: count(true, false),
            gained: count(false, true),
        }
    }
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.total as f64
    }
}

/// Whether the model finds each pair's grammatical sentence more likely; a tie counts as wrong.
///
/// # Errors
/// A sentence cannot be encoded or is longer than the context.
pub fn answers(model: Loaded<'_>, tokenizer: &Tokenizer, pairs: &[Pair]) -> Result<Vec<bool>, AssessError> {
    let bos = model.engine.config().bos;
    let sentences = pairs.iter().flat_map(|p| [&p.sentence_good, &p.sentence_bad]);
    let sequences: Vec<Vec<u32>> = sentences.map(|s| encode(tokenizer, s, bos)).collect::<Result<_, _>>().of(model.name)?;
    let sums = log_likelihoods(model, &sequences)?;
    Ok(sums.chunks_exact(2).map(|pair| pair[0] > pair[1]).collect())
}

/// Summed log probability, in nats, of each sequence's tokens after its first.
///
/// # Errors
/// A sequence is empty or longer than the context.
pub fn log_likelihoods(model: Loaded<'_>, sequences: &[Vec<u32>]) -> Result<Vec<f64>, AssessError> {
    let (engine, vocab) = (model.engine, model.engine.config().vocab);
    let rows = forward::rows_at_once(vocab);
    sequences.iter().try_for_each(|s| forward::check_tokens(engine, s)).of(model.name)?;
    // The last token of a sequence predicts nothing that is asked for; a sequence of one is run all the same.
    let inputs: Vec<&[u32]> = sequences.iter().map(|s| &s[..s.len().saturating_sub(1).max(1).min(s.len())]).collect();
    let mut sums = Vec::with_capacity(sequences.len());
    for batch in forward::batches(&inputs, rows) {
        let mut caches = forward::caches(engine, batch.iter().map(|s| s.len())).of(model.name)?;
        let mut part = vec![0.0; batch.len()];
        let mut done = 0;
        for pieces in forward::passes(batch, rows) {
            let log_probs = forward::log_probs(engine, &mut caches, &pieces).of(model.name)?;
            let mut row = log_probs.chunks_exact(vocab);
            for ((sum, sequence), piece) in part.iter_mut().zip(&sequences[sums.len()..]).zip(&pieces) {
                let next = sequence.iter().skip(done + 1).map(Some).chain(std::iter::repeat(None));
                for (row, next) in row.by_ref().take(piece.len()).zip(next) {
                    *sum += next.map_or(0.0, |&t| f64::from(row[t as usize]));
                }
            }
            done += pieces.first().map_or(0, |p| p.len());
        }
        sums.extend(part);
    }
    Ok(sums)
}

/// A sentence after the start token, once, where the model has one.
fn encode(tokenizer: &Tokenizer, text: &str, bos: Option<u32>) -> Result<Vec<u32>, coffer_model::tokenizer::TokenizerError> {
    let ids = tokenizer.encode(text, true)?;
    let missing = bos.filter(|b| ids.first() != Some(b));
    Ok(missing.into_iter().chain(ids).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blimp_lines_are_read_and_other_fields_ignored() {
        let text = "{\"sentence_good\": \"A.\", \"sentence_bad\": \"B.\", \"UID\": \"x\"}\n\n{\"sentence_good\":\"C\",\"sentence_bad\":\"D\"}\n";
        assert_eq!(parse(text, "p").unwrap().len(), 2);
    }

    #[test]
    fn malformed_lines_are_refused_with_their_number() {
        let refused = |text: &str| parse(text, "p.jsonl").unwrap_err().to_string();
        let good = "{\"sentence_good\":\"C\",\"sentence_bad\":\"D\"}\n";
        assert!(refused(&format!("{good}{{\"sentence_good\":\"C\"}}")).starts_with("p.jsonl:2: missing field `sentence_bad`"));
        assert!(refused("not json").starts_with("p.jsonl:1: "));
        assert!(refused(&good.replace('D', "")).contains("an empty sentence"));
        assert!(refused("\n\n").contains("no pairs"));
        assert!(refused(&good.replace('D', &"x".repeat(MAX_LINE))).contains("at most 65536"));
    }

    #[test]
    fn flips_are_counted_both_ways() {
        let (was, is) = ([true, true, true, false, false], [true, false, false, true, false]);
        assert_eq!(Pairs::count(&is, Some(&was)), Pairs { right: 2, total: 5, lost: Some(2), gained: Some(1) });
        assert_eq!(Pairs::count(&was, None), Pairs { right: 3, total: 5, lost: None, gained: None });
    }
}
