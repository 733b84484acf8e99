//! SentencePiece scores and byte-pair merges: GGUF stores the scores of the pieces, `tokenizer.json` the order of merges.

use super::{TokenizerError, invalid};
use std::collections::HashMap;

/// A longer piece would be no word but an attempt to keep us busy: every cut of every piece is tried.
const MAX_PIECE: usize = 1024;

/// The merges that build `pieces`, best score first. Any two pieces whose concatenation is a piece may merge.
///
/// # Errors
/// Returns [`TokenizerError`] if a piece is longer than 1024 bytes or a score is not a number.
pub(super) fn merges<'a>(pieces: &[(&'a str, f32)]) -> Result<Vec<(&'a str, &'a str)>, TokenizerError> {
    let known: HashMap<&str, usize> = pieces.iter().enumerate().map(|(i, (piece, _))| (*piece, i)).collect();
    let mut merges = Vec::new();
    for (piece, score) in pieces {
        if piece.len() > MAX_PIECE {
            return Err(invalid(format!("a piece of {} bytes is above the limit of {MAX_PIECE}", piece.len())));
        }
        if !score.is_finite() {
            return Err(invalid(format!("the score of `{piece}` is {score}")));
        }
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if let (Some(l), Some(r)) = (known.get(left), known.get(right)) {
                merges.push((*score, *l, *r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    Ok(merges.into_iter().map(|(_, _, _, left, right)| (left, right)).collect())
}

/// The score of each piece that a merge builds: minus the rank of its first merge. Other pieces have the score 0.
pub(super) fn scores<S: AsRef<str>>(merges: &[(S, S)]) -> HashMap<String, f32> {
    let mut scores = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        scores.entry([left.as_ref(), right.as_ref()].concat()).or_insert(-(rank as f32));
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_and_merges_undo_each_other() {
        let pieces = [("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -1.0), ("abc", -2.0), ("bc", -3.0)];
        let merges = merges(&pieces).unwrap();
        let written: Vec<String> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
        assert_eq!(written, ["a b", "a bc", "ab c", "b c"]);
        let scores = scores(&merges);
        assert!(scores["ab"] > scores["abc"] && scores["abc"] > scores["bc"]);
        assert!(super::merges(&[("x", f32::NAN)]).is_err());
        assert!(super::merges(&[(&"x".repeat(MAX_PIECE + 1), 0.0)]).is_err());
    }
}
