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
            let asked = self.dtype.filter(|_| !(donor.norms_in_f32 && t.shape.len() == 1));
            let dtype = asked.unwrap_or_else(|| donor.stored_dtype(&t.name));
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
        rows::encode_rows(&task.output, rows.start, &sum, None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor, floats};
    use coffer_checkpoint::TensorSource;
    use std::sync::Arc;

    const LAYER: &str = "model.layers.1.mlp.up_proj.weight";

    fn merged(recipe: &str) -> Result<Vec<Vec<f32>>, CompressError> {
        let file = Path::new("r.yml");
        let recipe = Recipe::parse(file, recipe).unwrap();
        let source = |i: usize| {
            let v = 1.0 + i as f32;
            let tensors = vec![f32_tensor(LAYER, &[1, 2], &[v, 10.0 * v]), f32_tensor("model.norm.weight", &[2], &[v, v])];
            let weights: Arc<dyn TensorSource> = Arc::new(MemorySource::new(tensors));
            Source { stored: weights.clone(), weights, norms_in_f32: false }
        };
        let linear = Linear::new(file, &recipe, (0..recipe.models.len()).map(source).collect(), 3)?;
        let tasks = linear.plan()?;
        tasks.iter().map(|t| Ok(floats(&linear.run(t, 0..t.output.rows())?))).collect()
    }

    fn recipe(one: &str, two: &str, global: &str) -> String {
        format!(
            "merge_method: linear\nmodels: [{{model: a, parameters: {one}}}, {{model: b, parameters: {two}}}]\nparameters: {global}"
        )
    }

    #[test]
    fn weights_are_normalized_unless_told_otherwise() {
        assert_eq!(merged(&recipe("{weight: 1}", "{weight: 3}", "{}")).unwrap(), [vec![1.75, 17.5], vec![1.75, 1.75]]);
        let sums = merged(&recipe("{weight: 1}", "{weight: 3}", "{normalize: false}")).unwrap();
        assert_eq!(sums, [vec![7.0, 70.0], vec![7.0, 7.0]]);
    }

    #[test]
    fn own_weights_precede_global_ones_and_filters_fall_through() {
        let own = "{weight: [{filter: mlp, value: 3}]}";
        let out = merged(&recipe(own, "{}", "{weight: 1, normalize: false}")).unwrap();
        assert_eq!(out, [vec![5.0, 50.0], vec![3.0, 3.0]]);
    }

    #[test]
    fn gradients_spread_over_the_layers_and_begin_outside_them() {
        let out = merged(&recipe("{weight: [0, 4]}", "{weight: 1}", "{normalize: false}")).unwrap();
        assert_eq!(out, [vec![4.0, 40.0], vec![2.0, 2.0]]);
        assert_eq!((position(LAYER, 1), position(LAYER, 2), position("lm_head.weight", 2)), (1.0, 1.0, 0.0));
    }

    #[test]
    fn weights_that_cannot_be_resolved_are_refused() {
        for (recipe, why) in [
            (recipe("{weight: 1}", "{}", "{}"), "models[1].parameters.weight"),
            (recipe("{weight: [{filter: mlp, value: 1}]}", "{weight: 1}", "{}"), "no value for model.norm.weight"),
            (recipe("{weight: 1}", "{weight: -1}", "{}"), "cannot be normalized"),
            (recipe("{weight: 1e300}", "{weight: 1}", "{}"), "models[0].parameters.weight"),
            (recipe("{weight: 1}", "{weight: 1}", "{normalize: 0.5}"), "true or false"),
            (recipe("{weight: 1}", "{weight: 1}", "{}") + "\nbase_model: c", "models[2]"),
        ] {
            let error = merged(&recipe).unwrap_err().to_string();
            assert!(error.contains(why), "{recipe}: {error}");
        }
    }
}
