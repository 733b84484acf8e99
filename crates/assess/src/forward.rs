//! Log probabilities of many sequences, in pieces whose logits fit a bounded buffer.

use coffer_engine::{Engine, EngineError, Finished, KvCache, Span, Want};
use std::ops::Range;

/// Bytes of logits that one engine holds at once.
const LOGITS_BYTES: usize = 64 << 20;

/// Rows of logits that fit the buffer, at least one and at most what keeps key-value caches small.
pub(crate) fn rows_at_once(vocab: usize) -> usize {
    (LOGITS_BYTES / (4 * vocab.max(1))).clamp(1, 4096)
}

/// Checks that the model has every token: log probabilities are looked up by token before the model has run it.
///
/// # Errors
/// A token lies outside the vocabulary.
pub(crate) fn check_tokens(engine: &Engine, tokens: &[u32]) -> Result<(), EngineError> {
    let vocab = engine.config().vocab;
    match tokens.iter().find(|&&t| t as usize >= vocab) {
        Some(&token) => Err(EngineError::Token { token, vocab }),
        None => Ok(()),
    }
}

/// Empty caches for sequences of these lengths.
pub(crate) fn caches(engine: &Engine, lengths: impl Iterator<Item = usize>) -> Result<Vec<KvCache>, EngineError> {
    lengths.map(|n| engine.cache(n)).collect()
}

/// Runs the next tokens of each sequence and returns the log probabilities that follow each of them,
/// `[tokens of all pieces, vocab]`, pieces in order. Empty pieces are left out.
pub(crate) fn log_probs(engine: &Engine, caches: &mut [KvCache], pieces: &[&[u32]]) -> Result<Vec<f32>, EngineError> {
    let mut spans: Vec<_> = caches
        .iter_mut()
        .zip(pieces)
        .filter(|(_, tokens)| !tokens.is_empty())
        .map(|(cache, &tokens)| Span { cache, tokens, want: Want::All })
        .collect();
    let mut logits = engine.forward(&mut spans)?;
    engine.cpu().log_softmax(&mut logits, engine.config().vocab);
    Ok(logits)
}

/// Log probabilities that follow each of some tokens of a window, `[tokens, vocab]`.
pub(crate) fn log_probs_of(model: &Finished, window: usize, tokens: Range<usize>) -> Result<Vec<f32>, EngineError> {
    let vocab = model.vocab();
    let mut logits = Vec::with_capacity(tokens.len() * vocab);
    model.logits(window, tokens, &mut |row| logits.extend_from_slice(row))?;
    model.cpu().log_softmax(&mut logits, vocab);
    Ok(logits)
}

/// `len` tokens in pieces of `rows`.
pub(crate) fn pieces(len: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len.div_ceil(rows)).map(move |i| i * rows..((i + 1) * rows).min(len))
}

/// Cuts sequences into batches whose tokens fit `rows`; a longer sequence is a batch of its own.
pub(crate) fn batches<'a, 'b>(sequences: &'a [&'b [u32]], rows: usize) -> Vec<&'a [&'b [u32]]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        if i > start && tokens + sequence.len() > rows {
            batches.push(&sequences[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += sequence.len();
    }
    if start < sequences.len() {
        batches.push(&sequences[start..]);
    }
    batches
}

/// The pieces of each sequence of a batch for one pass: all of them where they fit `rows`, else `rows` tokens of the only one.
pub(crate) fn passes<'b>(batch: &[&'b [u32]], rows: usize) -> Vec<Vec<&'b [u32]>> {
    match batch {
        [long] => long.chunks(rows).map(|piece| vec![piece]).collect(),
        several => vec![several.to_vec()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_and_keep_the_order() {
        let ids: Vec<u32> = (0..30).collect();
        let sequences = [&ids[..4], &ids[4..8], &ids[8..20], &ids[20..21], &ids[21..30]];
        let got: Vec<usize> = batches(&sequences, 10).iter().map(|b| b.len()).collect();
        assert_eq!(got, [2, 1, 2]);
        let flat: Vec<u32> = batches(&sequences, 10).iter().flat_map(|b| passes(b, 10)).flatten().flatten().copied().collect();
        assert_eq!(flat, ids);
        assert!(
            batches(&sequences, 10).iter().flat_map(|b| passes(b, 10)).all(|p| p.iter().map(|s| s.len()).sum::<usize>() <= 10)
        );
    }

    #[test]
    fn huge_vocabularies_still_get_a_row() {
        assert_eq!(rows_at_once(usize::MAX / 8), 1);
        assert_eq!(rows_at_once(4096), 4096);
        assert_eq!(rows_at_once(0), 4096);
    }
}
