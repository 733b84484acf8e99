//! Why a measurement failed.

use coffer_engine::EngineError;
use coffer_model::tokenizer::TokenizerError;
use coffer_store::StoreError;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssessError {
    /// A text too short to score anything.
    #[error("the text has {tokens} tokens where {need} are needed; give a longer one")]
    ShortText {
        /// Tokens of the text.
        tokens: usize,
        /// Fewest that can be scored.
        need: usize,
    },
    /// Windows that cannot be.
    #[error(
        "windows of {window} tokens with {skip} unscored: want at least 2 tokens, at most {context}, and skip below window - 1"
    )]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Tokens of it that are not scored.
        skip: usize,
        /// What the model can hold.
        context: usize,
    },
    /// Measuring text needs a tokenizer.
    #[error("{model} has no tokenizer, so no text can be measured on it")]
    NoTokenizer {
        /// The model.
        model: String,
    },
    /// A conversation needs a template.
    #[error("{model} has no chat template or no tokenizer; ask it for completions")]
    NoTemplate {
        /// The model.
        model: String,
    },
    /// The chat template refuses a question.
    #[error("{model}: {why}")]
    Template {
        /// The model.
        model: String,
        /// What it says.
        why: String,
    },
    /// More questions than there are.
    #[error("{wanted} questions, where 1 to {most} can be asked: ask fewer or give a longer text")]
    Questions {
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        most: usize,
    },
    /// Two models read the same text as different tokens.
    #[error(
        "{variant} and {reference} turn the same text into different tokens (first at token {at}); only models with one tokenizer can be compared"
    )]
    TokenizersDiffer {
        /// The reference.
        reference: String,
        /// The variant.
        variant: String,
        /// First token that differs.
        at: usize,
    },
    /// Two models over vocabularies of different size.
    #[error("{variant} has a vocabulary of {got} tokens, {reference} of {want}; their distributions cannot be compared")]
    VocabulariesDiffer {
        /// The reference.
        reference: String,
        /// Tokens of the reference.
        want: usize,
        /// The variant.
        variant: String,
        /// Tokens of the variant.
        got: usize,
    },
    /// A line of a file of minimal pairs.
    #[error("{file}:{line}: {message}")]
    Pairs {
        /// File.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Two ways of running the same tokens gave different bits: a defect of the engine, never of the model.
    #[error("{model}: case `{case}` gave other bits when it was run {way}: the numeric contract is broken; please report it")]
    BrokenContract {
        /// The model.
        model: String,
        /// Question of the suite.
        case: String,
        /// `cut` or `batched`.
        way: &'static str,
    },
    /// The model could not be loaded or run.
    #[error("{model}: {source}")]
    Engine {
        /// The model.
        model: String,
        /// Why.
        source: EngineError,
    },
    /// The model could not be read.
    #[error("{model}: {source}")]
    Store {
        /// The model.
        model: String,
        /// Why.
        source: StoreError,
    },
    /// The text could not be encoded.
    #[error("{model}: {source}")]
    Tokenizer {
        /// The model.
        model: String,
        /// Why.
        source: TokenizerError,
    },
}

/// Puts a model's name to errors of the crates below.
pub(crate) trait Named<T> {
    fn of(self, model: &str) -> Result<T, AssessError>;
}

impl<T> Named<T> for Result<T, EngineError> {
    fn of(self, model: &str) -> Result<T, AssessError> {
        self.map_err(|source| AssessError::Engine { model: model.to_owned(), source })
    }
}

impl<T> Named<T> for Result<T, StoreError> {
    fn of(self, model: &str) -> Result<T, AssessError> {
        self.map_err(|source| AssessError::Store { model: model.to_owned(), source })
    }
}

impl<T> Named<T> for Result<T, TokenizerError> {
    fn of(self, model: &str) -> Result<T, AssessError> {
        self.map_err(|source| AssessError::Tokenizer { model: model.to_owned(), source })
    }
}
