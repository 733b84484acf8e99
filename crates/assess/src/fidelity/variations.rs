//! Many models that each differ from the same one in one layer.

use super::{Fidelity, OnTheWay, Windows, side_by_side};
use crate::{AssessError, error::Named, forward};
use coffer_checkpoint::TensorSource;
use coffer_engine::{EngineError, Layerwise, LoadOptions, observe::Nobody};
use std::sync::Arc;

/// A model that differs from a reference in the weights of one layer.
pub struct Variation {
    /// The layer.
    pub layer: usize,
    /// All weights, of which others than those of the layer are not read.
    pub weights: Arc<dyn TensorSource>,
}

/// As [`compare_layerwise`] with each of `variations` in turn, in one go: layers before the one that varies are run once for all of them.
/// Their texts take about `memory` bytes on their way. `progress` is called with layers done and layers in all.
///
/// # Errors
/// As [`compare_layerwise`]; or there is no such layer.
pub fn compare_variations(
    reference: OnTheWay<'_>,
    variations: &[Variation],
    options: LoadOptions,
    memory: usize,
    windows: &Windows<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Fidelity>, AssessError> {
    let OnTheWay { name, config, weights } = reference;
    if let Some(Variation { layer, .. }) = variations.iter().find(|v| v.layer >= config.layers) {
        return Err(EngineError::Missing { tensor: format!("model.layers.{layer}") }).of(name);
    }
    let texts: Vec<Vec<u32>> = windows.sequences().iter().map(|s| s.to_vec()).collect();
    let own = texts.len();
    let mut order: Vec<usize> = (0..variations.len()).collect();
    order.sort_by_key(|&v| variations[v].layer);
    let bytes = texts.iter().map(Vec::len).sum::<usize>().saturating_mul(config.hidden * size_of::<f32>());
    let batches: Vec<&[usize]> = order.chunks((memory / bytes.max(1)).max(1)).collect();
    let left = |batch: &&[usize]| (config.layers - variations[batch[0]].layer) as u64;
    let (mut done, total) = (0, batches.iter().map(left).sum());
    progress(done, total);
    let mut start = Layerwise::start(config, weights, options, texts).of(name)?;
    let mut found: Vec<Option<Fidelity>> = vec![None; variations.len()];
    for batch in batches {
        while start.done() < variations[batch[0]].layer && start.advance(&mut Nobody).of(name)? {}
        let mut texts = start.clone();
        loop {
            let here = batch.iter().map(|&v| &variations[v]).filter(|v| v.layer == texts.done());
            let beside: Vec<&dyn TensorSource> = here.map(|v| &*v.weights).collect();
            if !texts.advance_beside(own, &beside).of(name)? {
                break;
            }
            done += 1;
            progress(done, total);
        }
        let texts = texts.finish(&mut Nobody).of(name)?;
        let log_probs = |model, window, piece| forward::log_probs_of(&texts, model * own + window, piece).of(name);
        let (_, beside) = side_by_side(windows, config.vocab, batch.len(), &log_probs)?;
        batch.iter().zip(beside).for_each(|(&v, fidelity)| found[v] = Some(fidelity));
    }
    Ok(found.into_iter().flatten().collect())
}
