//! Pruning: weights set to zero where they are. Shapes and types stay.

pub mod magnitude;

use crate::{CompressError, Plan, Progress, Summary, driver, method};
use coffer_store::{Destination, Model, Target};
use magnitude::Magnitude;

/// How to prune.
#[derive(Clone, Debug, PartialEq)]
pub struct PruneParams {
    /// Name of the method, as the registry has it.
    pub method: String,
    /// Share of the weights of every pruned tensor that become zero, 0 to 1.
    pub sparsity: f64,
    /// Threads, at least one.
    pub threads: usize,
}

/// What [`prune`] would write.
///
/// # Errors
/// As [`prune`], as far as can be told without reading weights.
pub fn plan(model: &Model, params: &PruneParams) -> Result<Plan, CompressError> {
    driver::plan(&method_of(model, params)?, driver::bytes_of(&*model.weights), params.threads)
}

/// Writes the pruned `model` to the Hugging Face directory `out`, plain or sealed, every tensor in its own type.
///
/// # Errors
/// Returns [`CompressError`] if the method is unknown, the sparsity out of range, the source quantized, a weight NaN,
/// or if reading or writing fails.
pub fn prune<'a>(
    model: &Model,
    out: impl Into<Destination<'a>>,
    params: &PruneParams,
    progress: &mut Progress<'_>,
) -> Result<Summary, CompressError> {
    let (method, out) = (method_of(model, params)?, out.into());
    let bytes_in = driver::bytes_of(&*model.weights);
    driver::execute(&method, model, (out, Target::HuggingFace), bytes_in, params.threads, progress)?.place(out.path)
}

fn method_of(model: &Model, params: &PruneParams) -> Result<Magnitude, CompressError> {
    if params.method != magnitude::ENTRY.name {
        let expected = format!("one of: {}", method::names(method::Kind::Prune));
        return Err(CompressError::Parameter { name: "method", value: params.method.clone(), expected });
    }
    Magnitude::new(model.weights.clone(), &coffer_model::LayerGraph::of(&model.config), params.sparsity)
}
