//! Quantization to GGUF's block formats, weights alone.

mod mixture;

pub use mixture::Scheme;

use crate::{
    CompressError, Method, Plan, Progress, Summary, Task, driver,
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::{TensorInfo, TensorSource};
use coffer_model::ModelConfig;
use coffer_store::{Model, Target};
use std::{ops::Range, path::Path, sync::Arc};

/// How to quantize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeParams {
    /// Types to write.
    pub scheme: Scheme,
    /// Accept a source that is quantized already.
    pub requantize: bool,
    /// Threads, at least one.
    pub threads: usize,
}

/// Rounding to the nearest, with a search for the scales of least squared error.
pub static ENTRY: Entry = Entry {
    kind: Kind::Quantize,
    name: "nearest",
    id: "nearest@1",
    needs: Needs::Nothing,
    about: "each block on its own: scales of least squared error, codes rounded to the nearest",
};

/// What [`quantize`] would write.
///
/// # Errors
/// As [`quantize`], as far as can be told without reading weights.
pub fn plan(model: &Model, params: &QuantizeParams) -> Result<Plan, CompressError> {
    driver::plan(&Quantize::of(model, params), driver::bytes_of(&*model.weights), params.threads)
}

/// Writes `model` to the GGUF file `out` in the types of `params.scheme`.
///
/// # Errors
/// Returns [`CompressError`] if the source is quantized and `params.requantize` is not set, if a weight is not finite
/// or too large for its type, or if reading or writing fails.
pub fn quantize(
    model: &Model,
    out: &Path,
    params: &QuantizeParams,
    progress: &mut Progress<'_>,
) -> Result<Summary, CompressError> {
    let method = Quantize::of(model, params);
    driver::execute(&method, model, (out, Target::Gguf), driver::bytes_of(&*model.weights), params.threads, progress)
}

struct Quantize {
    source: Arc<dyn TensorSource>,
    config: ModelConfig,
    scheme: Scheme,
    requantize: bool,
}

impl Quantize {
    fn of(model: &Model, params: &QuantizeParams) -> Self {
        let QuantizeParams { scheme, requantize, .. } = *params;
        Self { source: model.weights.clone(), config: model.config.clone(), scheme, requantize }
    }
}

impl Method for Quantize {
    fn entry(&self) -> &'static Entry {
        &ENTRY
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        let index = self.source.index();
        if let Some((_, t)) = index.iter().find(|(_, t)| t.dtype.is_quantized() && !self.requantize) {
            return Err(CompressError::Requantize { tensor: t.name.clone(), dtype: t.dtype });
        }
        let tied = index.find(mixture::HEAD).is_none();
        index
            .iter()
            .map(|(_, t)| {
                let dtype = self.scheme.dtype_of(t, &self.config, tied);
                rows::task_by_rows(TensorInfo { dtype, ..t.clone() }, 1)
            })
            .collect()
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let (id, info) = rows::find(&*self.source, &task.output.name)?;
        if info.dtype == task.output.dtype && info.dtype.is_quantized() {
            return rows::read_raw(&*self.source, id, rows);
        }
        rows::encode_rows(&task.output, rows.start, &rows::read(&*self.source, id, rows.clone())?)
    }
}
