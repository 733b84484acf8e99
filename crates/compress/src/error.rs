//! Why a model could not be made.

use crate::{adapter::AdapterError, encode::EncodeError, merge::RecipeError};
use coffer_checkpoint::{DType, ReadError, blocks::BlockError};
use coffer_store::StoreError;

/// Why a model could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// A source could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A model could not be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A source could not be read, or a model written, to its end.
    #[error("{error}; what was made is kept in {left}: the same command goes on from there, and removing it is safe")]
    Interrupted {
        /// Where it is.
        left: String,
        /// What went wrong.
        #[source]
        error: Box<CompressError>,
    },
    /// A recipe cannot be followed.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An adapter cannot be applied.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Values that no format can hold; `value N` counts within the row.
    #[error("tensor {tensor}, row {row}: {source}; the model is damaged or was trained badly")]
    Values {
        /// Tensor.
        tensor: String,
        /// Row.
        row: u64,
        /// What is wrong in the row.
        source: EncodeError,
    },
    /// A tensor of whole or partial numbers that are no weights.
    #[error("tensor {tensor}: {source}")]
    Decode {
        /// Tensor.
        tensor: String,
        /// What is wrong with it.
        source: BlockError,
    },
    /// A tensor whose sizes contradict each other or exceed the machine.
    #[error("tensor {tensor} of {dtype} {shape:?} has no size that this machine can address")]
    Size {
        /// Tensor.
        tensor: String,
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Vec<u64>,
    },
    /// The source has lost precision already.
    #[error(
        "tensor {tensor} is {dtype}, quantized already, and would lose precision twice; start from the original, or allow requantizing"
    )]
    Requantize {
        /// First such tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// The method needs plain numbers.
    #[error(
        "tensor {tensor} is {dtype}; {method} writes F32, F16 or BF16 only: start from the original or convert to Hugging Face first"
    )]
    Quantized {
        /// Method.
        method: &'static str,
        /// First such tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// A parameter outside its range.
    #[error("{name} is {value}; it must be {expected}")]
    Parameter {
        /// Parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Models that cannot be merged.
    #[error("{model} does not fit {first}: {reason}; only models of one shape and one vocabulary can be merged")]
    Mismatch {
        /// The model that differs.
        model: String,
        /// The model that it was compared with.
        first: String,
        /// How it differs.
        reason: String,
    },
    /// The model could not be run on the calibration text.
    #[error(transparent)]
    Engine(#[from] coffer_engine::EngineError),
    /// A text that the model cannot be calibrated with.
    #[error("{0}")]
    Calibration(String),
    /// A text that says too little.
    #[error("{name}: {tokens} tokens are too few to learn from; {need} are the least, and some thousands are good")]
    ShortText {
        /// Name of the text.
        name: String,
        /// Its tokens.
        tokens: usize,
        /// How many are needed.
        need: usize,
    },
    /// Second moments of all inputs do not fit.
    #[error("learning from a text takes {} MB of memory for this model, which there is not; --imatrix takes little", bytes / 1_000_000)]
    CurvatureMemory {
        /// Bytes.
        bytes: usize,
    },
    /// An importance matrix that does not fit the model.
    #[error("importance matrix: {reason}")]
    ForeignImportance {
        /// What does not fit.
        reason: String,
    },
    /// Shards that are not one model.
    #[error("shards: {reason}")]
    Shards {
        /// What does not fit.
        reason: String,
    },
    /// No mixture is as small or as near to the source as asked.
    #[error("{reason}")]
    Goal {
        /// What is possible.
        reason: String,
    },
    /// A type cannot be fixed.
    #[error("pin {pattern}={dtype}: {reason}")]
    Pin {
        /// Names it is for.
        pattern: String,
        /// Type.
        dtype: DType,
        /// Why not.
        reason: String,
    },
    /// The model lacks a tensor that the method acts on.
    #[error("the model has no tensor {0}")]
    Missing(String),
}
