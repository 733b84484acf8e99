//! Quantization of weights to GGUF's block formats and those of compressed-tensors.

mod automatic;
mod explain;
pub(crate) mod gptq;
mod mixture;
mod pin;
mod rounded;

pub use automatic::{Costs, Goal, Measure, Mixture, Variant};
pub use explain::{Explanation, explain};
use gptq::Feedback;
pub use mixture::Scheme;
pub use pin::{Pin, pinned};
pub use rounded::Rounded;

use crate::{
    Calibration, CompressError, Curvature, Equalization, Importance, Made, Method, Plan, Progress, Summary, Task, driver, encode,
    equalize::Equalized,
    layer_inputs::{LayerInputs, of_one_layer},
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::{DType, TensorIndex, TensorInfo, TensorSource};
use coffer_engine::LoadOptions;
use coffer_model::ModelConfig;
use coffer_store::{Destination, Model};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// How to quantize.
#[derive(Clone, Debug)]
pub struct QuantizeParams {
    /// Types to write.
    pub scheme: Scheme,
    /// Tensors that get another type than the scheme gives them, by canonical name.
    pub types: BTreeMap<String, DType>,
    /// Accept a source that is quantized already.
    pub requantize: bool,
    /// What is known of the inputs of matrices: it decides on the method.
    pub inputs: Inputs,
    /// Threads, at least one.
    pub threads: usize,
}

/// What is known of the inputs of matrices.
#[derive(Clone, Debug, Default)]
pub enum Inputs {
    /// Nothing: `nearest`.
    #[default]
    Unknown,
    /// How large they are: `weighted`.
    Importance(Arc<Importance>),
    /// How they vary together: `gptq`.
    Curvature(Arc<Curvature>),
    /// The same, and what makes columns as large as they count: `awq`.
    Equalized(Arc<Equalization>),
}

/// Rounding to the nearest, with a search for the scales of least squared error.
pub(crate) static NEAREST: Entry = Entry {
    kind: Kind::Quantize,
    name: "nearest",
    id: "nearest@1",
    needs: Needs::Nothing,
    about: "each block on its own: scales of least squared error, codes rounded to the nearest",
};

/// The same, with columns that count as much as the activations they meet are large.
pub(crate) static WEIGHTED: Entry = Entry {
    kind: Kind::Quantize,
    name: "weighted",
    id: "weighted@1",
    needs: Needs::Importance,
    about: "as nearest, and the error of a column counts as much as the activations that meet it are large",
};

/// Factors first, then as weighted.
pub(crate) static EQUALIZED: Entry = Entry {
    kind: Kind::Quantize,
    name: "awq",
    id: "awq@1",
    needs: Needs::Curvature,
    about: "columns that meet large activations are made larger and what feeds them smaller; then as weighted",
};

/// Finds what makes columns as large as they count for a text, for rounding `model`, which is run as `options` say, as `params` do.
///
/// # Errors
/// As [`LayerInputs::input`]; or a weight is no number or cannot be read.
pub fn equalize(
    model: &Model,
    params: &QuantizeParams,
    (options, calibration): (LoadOptions, &Calibration),
    progress: &mut Progress<'_>,
) -> Result<Equalization, CompressError> {
    let moments = LayerInputs::moments(model, options, calibration);
    let learned = QuantizeParams { inputs: Inputs::Importance(Arc::default()), ..params.clone() };
    Equalization::of(&*model.weights, &model.config, &Quantize::of(model, &learned).outputs(), &moments, progress)
}

/// What [`quantize`] would write.
///
/// # Errors
/// As [`quantize`], as far as can be told without reading weights.
pub fn plan(model: &Model, params: &QuantizeParams) -> Result<Plan, CompressError> {
    driver::plan(&Quantize::of(model, params), driver::bytes_of(&*model.weights), params.threads)
}

/// Writes `model` to `out`, plain or sealed, in the types of `params.scheme`: a GGUF file, or a Hugging Face directory.
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
    let out = out.into();
    make(model, out, params, progress)?.place(out.path)
}

/// As [`quantize`], without giving the output its name.
///
/// # Errors
/// As [`quantize`]. If reading or writing failed, what is whole is left beside `out` for the same work to go on with.
pub fn make(
    model: &Model,
    out: Destination<'_>,
    params: &QuantizeParams,
    progress: &mut Progress<'_>,
) -> Result<Made, CompressError> {
    let method = Quantize::of(model, params);
    driver::execute(&method, model, (out, params.scheme.target()), driver::bytes_of(&*model.weights), params.threads, progress)
}

pub(crate) struct Quantize {
    source: Arc<dyn TensorSource>,
    /// The first tensor of the model that is quantized already.
    quantized: Option<TensorInfo>,
    config: ModelConfig,
    scheme: Scheme,
    types: BTreeMap<String, DType>,
    requantize: bool,
    rounding: Rounding,
}

/// How values become codes.
enum Rounding {
    Nearest,
    /// By how much each column counts; for the method that says so.
    Weighted(&'static Entry, Arc<Importance>),
    Feedback(Feedback),
}

impl Quantize {
    pub(crate) fn of(model: &Model, params: &QuantizeParams) -> Self {
        let QuantizeParams { scheme, ref types, requantize, ref inputs, .. } = *params;
        let given = &model.weights;
        let quantized = given.index().iter().map(|(_, t)| t).find(|t| t.dtype.is_quantized()).cloned();
        let (source, rounding): (Arc<dyn TensorSource>, _) = match inputs {
            Inputs::Unknown => (given.clone(), Rounding::Nearest),
            Inputs::Importance(importance) => (given.clone(), Rounding::Weighted(&WEIGHTED, Arc::clone(importance))),
            Inputs::Curvature(curvature) => (given.clone(), Rounding::Feedback(Feedback(Arc::clone(curvature)))),
            Inputs::Equalized(equalization) => {
                let rounding = Rounding::Weighted(&EQUALIZED, Arc::clone(&equalization.importance));
                (Arc::new(Equalized::new(given.clone(), Arc::clone(equalization))), rounding)
            }
        };
        let config = model.config.clone();
        Self { source, quantized, config, scheme, types: types.clone(), requantize, rounding }
    }

    /// The tensors of the new model.
    fn outputs(&self) -> TensorIndex {
        let index = self.source.index();
        let tied = index.find(mixture::HEAD).is_none();
        let facts = mixture::Facts { config: &self.config, tied, importance: !matches!(self.rounding, Rounding::Nearest) };
        index.with_types(|t| self.types.get(&t.name).copied().unwrap_or_else(|| self.scheme.dtype_of(t, facts)))
    }
}

impl Method for Quantize {
    fn entry(&self) -> &'static Entry {
        match self.rounding {
            Rounding::Nearest => &NEAREST,
            Rounding::Weighted(entry, _) => entry,
            Rounding::Feedback(_) => &gptq::ENTRY,
        }
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        if let Some(t) = self.quantized.as_ref().filter(|_| !self.requantize) {
            return Err(CompressError::Requantize { tensor: t.name.clone(), dtype: t.dtype });
        }
        self.outputs().iter().map(|(_, t)| rows::task_by_rows(t.clone(), 1)).collect()
    }

    fn together(&self, next: &[Task]) -> usize {
        match self.rounding {
            Rounding::Feedback(_) => of_one_layer(next.iter().map(|task| &*task.output.name)),
            Rounding::Nearest | Rounding::Weighted(..) => next.len(),
        }
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let (id, info) = rows::find(&*self.source, &task.output.name)?;
        if info.dtype == task.output.dtype && info.dtype.is_quantized() {
            return rows::read_raw(&*self.source, id, rows);
        }
        let values = rows::read(&*self.source, id, rows.clone())?;
        let searched = encode::is_searched(task.output.dtype);
        let weights = match &self.rounding {
            Rounding::Feedback(feedback) if searched => {
                if let Some(bytes) = feedback.encode(&task.output, rows.start, &values)? {
                    return Ok(bytes);
                }
                None
            }
            Rounding::Weighted(_, importance) if searched => {
                importance.columns(&info.name, info.cols())?.map(|columns| weigh(&values, &columns))
            }
            _ => None,
        };
        rows::encode_rows(&task.output, rows.start, &values, weights.as_deref())
    }
}

/// How much each of `values` counts: the importance of its column, times the root of its own square and twice the row's mean
/// square, since what is large is met by codes that are far apart. In units of the mean, and within bounds that keep sums
/// in range; where nothing is known to count, all columns count alike.
pub(crate) fn weigh(values: &[f32], columns: &[f32]) -> Vec<f32> {
    let columns = in_units_of_the_mean(columns);
    let mut weights = Vec::with_capacity(values.len());
    for row in values.chunks_exact(columns.len().max(1)) {
        let square = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / row.len() as f64;
        let unit = if square > 0.0 { 1.0 / square } else { 0.0 };
        let size = |v: f32| (2.0 + f64::from(v) * f64::from(v) * unit).sqrt() as f32;
        weights.extend(row.iter().zip(&columns).map(|(&v, c)| c * size(v).clamp(LEAST, MOST)));
    }
    weights
}

fn in_units_of_the_mean(columns: &[f32]) -> Vec<f32> {
    let sum: f64 = columns.iter().map(|&c| f64::from(c)).sum();
    if sum <= 0.0 {
        return vec![1.0; columns.len()];
    }
    let unit = columns.len() as f64 / sum;
    columns.iter().map(|&c| ((f64::from(c) * unit) as f32).clamp(LEAST, MOST)).collect()
}
const LEAST: f32 = 1e-6;
const MOST: f32 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor, noise};

    const UP: &str = "model.layers.0.mlp.up_proj.weight";

    fn method(scheme: Scheme, requantize: bool, tensors: Vec<(TensorInfo, Vec<u8>)>) -> Quantize {
        let source = MemorySource::new(tensors);
        let quantized = source.index().iter().map(|(_, t)| t).find(|t| t.dtype.is_quantized()).cloned();
        Quantize {
            source: Arc::new(source),
            quantized,
            config: mixture::tests::config(8),
            scheme,
            types: BTreeMap::new(),
            requantize,
            rounding: Rounding::Nearest,
        }
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
        let bytes = crate::rows::encode_rows(&info, 0, &noise(512, 3), None).unwrap();
        let tensors = || vec![(info.clone(), bytes.clone())];
        let error = method(Scheme::Q8_0, false, tensors()).plan().unwrap_err().to_string();
        assert!(error.contains("is Q8_0, quantized already"), "{error}");
        assert_eq!(written(&method(Scheme::Q8_0, true, tensors()), 1).unwrap(), bytes);
        assert_eq!(written(&method(Scheme::Q4_K_M, true, tensors()), 1).unwrap().len(), 288);
    }

    #[test]
    fn weights_are_positive_and_finite_whatever_counts() {
        let values = [&noise(64, 4)[..], &[0.0; 64], &[f32::MAX; 64]].concat();
        for columns in [vec![0.0; 64], vec![f32::MAX; 64], (0..64).map(|i| [0.0, 1e-30, 1.0, 1e30][i % 4]).collect()] {
            let weights = weigh(&values, &columns);
            assert!(weights.len() == values.len() && weights.iter().all(|w| *w > 0.0 && w.is_finite()), "{columns:?}");
        }
        let alike = weigh(&[1.0; 64], &[0.0; 64]);
        assert!(alike.iter().all(|w| *w == alike[0]));
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused_by_tensor_and_row() {
        let mut values = noise(512, 3);
        values[300] = f32::INFINITY;
        let error = written(&method(Scheme::Q4_0, false, vec![f32_tensor(UP, &[2, 256], &values)]), 2).unwrap_err().to_string();
        assert!(error.contains("up_proj.weight, row 1: value 44 is inf"), "{error}");
    }
}
