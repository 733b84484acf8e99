//! Text that shows a method what the weights are used for.

use crate::CompressError;
use coffer_checkpoint::TensorSource;
use coffer_engine::{EngineError, Layerwise, LoadOptions};
use coffer_model::{ModelConfig, Tokenizer};
use std::sync::Arc;

/// A text, cut into windows that are run each on its own. The first token of each is the one that begins texts, if the
/// tokenizer has one, as llama.cpp's tools do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Name of the text, e.g. the file's.
    pub name: String,
    /// Tokens of a window.
    pub window: usize,
    windows: Vec<Vec<u32>>,
}

/// Fewer tokens say too little about any weight.
const FEWEST: usize = 64;

impl Calibration {
    /// Cuts `text` into windows of `window` tokens, at most `max_tokens` in all. What does not fill a window is left out,
    /// unless the text is shorter than one.
    ///
    /// # Errors
    /// [`CompressError::ShortText`], or the tokenizer's.
    pub fn new(name: &str, text: &str, tokenizer: &Tokenizer, window: usize, max_tokens: usize) -> Result<Self, CompressError> {
        let refused = |e: coffer_model::TokenizerError| CompressError::Calibration(format!("{name}: {e}"));
        let mut tokens = tokenizer.encode(text, true).map_err(refused)?;
        let plain = tokenizer.encode("a", false).map_err(refused)?;
        let framed = tokenizer.encode("a", true).map_err(refused)?;
        let begin = framed.first().copied().filter(|_| framed.len() > plain.len() && framed.first() != plain.first());
        tokens.truncate(max_tokens);
        if tokens.len() < FEWEST || window < 2 {
            return Err(CompressError::ShortText { name: name.to_owned(), tokens: tokens.len(), need: FEWEST });
        }
        let whole = tokens.chunks(window).filter(|w| w.len() == window.min(tokens.len()));
        let mut windows: Vec<Vec<u32>> = whole.map(<[u32]>::to_vec).collect();
        if let Some(begin) = begin {
            windows.iter_mut().for_each(|w| w[0] = begin);
        }
        Ok(Self { name: name.to_owned(), window, windows })
    }

    /// Windows.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// The windows before the first layer of a model, which is run as `options` say.
    ///
    /// # Errors
    /// The model cannot be run on a window.
    pub(crate) fn start(
        &self,
        config: &ModelConfig,
        weights: Arc<dyn TensorSource>,
        options: LoadOptions,
    ) -> Result<Layerwise, EngineError> {
        Layerwise::start(config, weights, options, self.windows.clone())
    }
}
