//! Quantization to GGUF's block formats, weights alone.

mod mixture;
mod rounded;

pub use mixture::Scheme;
pub use rounded::Rounded;

use crate::{
    CompressError, Method, Plan, Progress, Summary, Task, driver,
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::{TensorIndex, TensorSource};
use coffer_model::ModelConfig;
use coffer_store::{Destination, Model, Target};
use std::{ops::Range, sync::Arc};

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

/// Writes `model` to the GGUF file `out`, plain or sealed, in the types of `params.scheme`.
///
/// # Errors
/// Returns [`CompressError`] if the source is quantized and `params.requantize` is not set, if a weight is not finite
/// or too large for its type, or if reading or writing fails.
pub fn quantize<'a>(
    model: &Model,
    out: impl Into<Destination<'a>>,
    params: &QuantizeParams,
    progress: &mut Progress<'_>,
) -> Result<Summary, CompressError> {
    let method = Quantize::of(model, params);
    driver::execute(&method, model, (out.into(), Target::Gguf), driver::bytes_of(&*model.weights), params.threads, progress)
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

    /// The tensors of the new model.
    fn outputs(&self) -> TensorIndex {
        let index = self.source.index();
        let tied = index.find(mixture::HEAD).is_none();
        index.with_types(|t| self.scheme.dtype_of(t, &self.config, tied))
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
        self.outputs().iter().map(|(_, t)| rows::task_by_rows(t.clone(), 1)).collect()
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let (id, info) = rows::find(&*self.source, &task.output.name)?;
        if info.dtype == task.output.dtype && info.dtype.is_quantized() {
            return rows::read_raw(&*self.source, id, rows);
        }
        rows::encode_rows(&task.output, rows.start, &rows::read(&*self.source, id, rows.clone())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor, noise};
    use coffer_checkpoint::{DType, TensorInfo};

    const UP: &str = "model.layers.0.mlp.up_proj.weight";

    fn method(scheme: Scheme, requantize: bool, tensors: Vec<(TensorInfo, Vec<u8>)>) -> Quantize {
        Quantize { source: Arc::new(MemorySource::new(tensors)), config: mixture::tests::config(8), scheme, requantize }
    }

    fn written(method: &Quantize, threads: usize) -> Result<Vec<u8>, CompressError> {
        let mut out = Vec::new();
        driver::run(method, &method.plan()?, threads, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn threads_do_not_change_bytes() {
        let tensors = || vec![f32_tensor("a", &[3000, 256], &noise(768_000, 1)), f32_tensor(UP, &[17, 512], &noise(17 * 512, 2))];
        for scheme in Scheme::ALL {
            let method = method(scheme, false, tensors());
            let one = written(&method, 1).unwrap();
            assert!([2, 4].iter().all(|&n| written(&method, n).unwrap() == one), "{scheme}");
        }
    }

    #[test]
    fn a_quantized_source_needs_permission_and_keeps_what_already_fits() {
        let info = TensorInfo { name: UP.into(), dtype: DType::Q8_0, shape: vec![2, 256] };
        let bytes = crate::rows::encode_rows(&info, 0, &noise(512, 3)).unwrap();
        let tensors = || vec![(info.clone(), bytes.clone())];
        let error = method(Scheme::Q8_0, false, tensors()).plan().unwrap_err().to_string();
        assert!(error.contains("is Q8_0, quantized already"), "{error}");
        assert_eq!(written(&method(Scheme::Q8_0, true, tensors()), 1).unwrap(), bytes);
        assert_eq!(written(&method(Scheme::Q4_K_M, true, tensors()), 1).unwrap().len(), 288);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused_by_tensor_and_row() {
        let mut values = noise(512, 3);
        values[300] = f32::INFINITY;
        let error = written(&method(Scheme::Q4_0, false, vec![f32_tensor(UP, &[2, 256], &values)]), 2).unwrap_err().to_string();
        assert!(error.contains("up_proj.weight, row 1: value 44 is inf"), "{error}");
    }
}
