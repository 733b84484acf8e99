//! A weighted mean of models (Wortsman et al., arXiv:2203.05482).

use super::{RecipeError, Source, recipe::Recipe};
use crate::{
    CompressError, Method, Task,
    method::{Entry, Kind, Needs},
    rows,
};
use coffer_checkpoint::{DType, TensorInfo};
use std::{collections::HashMap, ops::Range, path::Path};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    kind: Kind::Merge,
    name: "linear",
    id: "linear@1",
    needs: Needs::Nothing,
    about: "weighted sum, divided by the sum of the weights unless normalize is false",
};

/// Sums `weight · tensor` in the order of the recipe, in `f32`, and then divides.
pub(super) struct Linear {
    sources: Vec<Source>,
    donor: usize,
    dtype: Option<DType>,
    /// By tensor.
    coefficients: HashMap<String, Coefficients>,
}

struct Coefficients {
    /// One for each source.
    weights: Vec<f32>,
    divisor: Option<f32>,
}

impl Linear {
    /// Resolves the weights of every tensor; `layers` counts the blocks over which gradients spread.
    pub(super) fn new(file: &Path, recipe: &Recipe, sources: Vec<Source>, layers: usize) -> Result<Self, RecipeError> {
        let index = sources[recipe.donor].weights.index();
        let coefficients = index.iter().map(|(_, t)| {
            let resolved = resolve(recipe, &t.name, position(&t.name, layers));
            let fault = |(key, reason)| RecipeError::Key { file: file.display().to_string(), key, reason };
            Ok((t.name.clone(), resolved.map_err(fault)?))
        });
        let coefficients = coefficients.collect::<Result<_, RecipeError>>()?;
        Ok(Self { donor: recipe.donor, dtype: recipe.dtype, coefficients, sources })
    }
}

impl Method for Linear {
    fn entry(&self) -> &'static Entry {
        &ENTRY
    }

    fn plan(&self) -> Result<Vec<Task>, CompressError> {
        let donor = &self.sources[self.donor];
        let task = |t: &TensorInfo| {
            let dtype = self.dtype.unwrap_or_else(|| donor.stored_dtype(&t.name));
            if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
                return Err(CompressError::Quantized { method: "a merge without out_dtype", tensor: t.name.clone(), dtype });
            }
            rows::task_by_rows(TensorInfo { dtype, ..t.clone() }, 2)
        };
        donor.weights.index().iter().map(|(_, t)| task(t)).collect()
    }

    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let name = &task.output.name;
        let Coefficients { weights, divisor } =
            self.coefficients.get(name).ok_or_else(|| CompressError::Missing(name.clone()))?;
        let mut sum = Vec::new();
        for (source, &weight) in self.sources.iter().zip(weights) {
            let (id, _) = rows::find(&*source.weights, name)?;
            let values = rows::read(&*source.weights, id, rows.clone())?;
            sum.resize(values.len(), 0.0f32);
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += weight * v);
        }
        if let Some(divisor) = divisor {
            sum.iter_mut().for_each(|s| *s /= divisor);
        }
        rows::encode_rows(&task.output, rows.start, &sum)
    }
}

/// Weights of one tensor at position `t`; the error is a key and what is wrong with it.
fn resolve(recipe: &Recipe, tensor: &str, t: f64) -> Result<Coefficients, (String, String)> {
    let global = recipe.parameters.weight.as_ref();
    let weight = |(i, input): (usize, &super::recipe::Input)| {
        let own = input.weight.as_ref().and_then(|s| s.evaluate(tensor, t));
        let value = own.or_else(|| global.and_then(|s| s.evaluate(tensor, t)));
        value.map(|v| v as f32).filter(|v| v.is_finite()).ok_or_else(|| {
            let (key, model) = (format!("models[{i}].parameters.weight"), &input.written);
            (key, format!("there is no value for {tensor} of {model}; every model of a linear merge, the base too, needs one"))
        })
    };
    let weights = recipe.models.iter().enumerate().map(weight).collect::<Result<Vec<f32>, _>>()?;
    let normalize = recipe.parameters.normalize.as_ref().and_then(|s| s.evaluate(tensor, t)).unwrap_or(1.0);
    let key = || "parameters.normalize".to_owned();
    if normalize != 0.0 && normalize != 1.0 {
        return Err((key(), format!("it is {normalize} for {tensor}; it must be true or false")));
    }
    let total: f32 = weights.iter().sum();
    if normalize == 1.0 && !(total.is_finite() && total != 0.0) {
        return Err((key(), format!("the weights of {tensor} add up to {total}: they cannot be normalized")));
    }
    Ok(Coefficients { weights, divisor: (normalize == 1.0).then_some(total) })
}

/// Where a tensor lies among the layers: 0 to 1; 0 outside them, 1 in a model of one layer.
fn position(tensor: &str, layers: usize) -> f64 {
    let block = tensor.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match (block, layers) {
        (None, _) => 0.0,
        (Some(_), 0 | 1) => 1.0,
        (Some(block), _) => block as f64 / (layers - 1) as f64,
    }
}
