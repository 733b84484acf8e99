//! Equalization: columns that meet large activations are made larger before they are rounded, and what feeds them smaller by as much, so
//! that the model computes the same and rounding loses less of what counts (Lin et al., "AWQ", 2023).
//!
//! What feeds a product is the norm before it, the values that attention mixes, or the upper half of a gated feed-forward layer. A norm
//! is stored in few bits; the columns are scaled by what its rounded weights really lack, so that nothing is lost there.

use crate::{CompressError, Importance, Progress, encode, layer_inputs::LayerInputs, moments::Moments, rows};
use coffer_checkpoint::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, blocks};
use coffer_model::{LayerGraph, ModelConfig};
use std::{collections::HashMap, ops::Range, sync::Arc};

/// Factors of a model's weights, and how large its inputs are once they are applied.
#[derive(Debug)]
pub struct Equalization {
    pub(crate) importance: Arc<Importance>,
    /// For each column of a weight.
    columns: HashMap<String, Vec<f32>>,
    /// For each row of a weight, or each number of a norm.
    rows: HashMap<String, Vec<f32>>,
}

/// Exponents that are tried: how much of the differences between inputs goes into the weights.
const EXPONENTS: [f32; 9] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
/// Rows of a weight on which they are compared.
const ROWS: u64 = 32;
/// Largest factor, and the inverse of the smallest.
const MOST: f32 = 64.0;

impl Equalization {
    /// Finds for each input the exponent at which rounding `source` to the types of `outputs` does least to the products of some rows.
    ///
    /// # Errors
    /// As [`LayerInputs::input`]; or a weight is no number or cannot be read.
    pub fn of(
        source: &dyn TensorSource,
        config: &ModelConfig,
        outputs: &TensorIndex,
        moments: &LayerInputs<Moments>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, CompressError> {
        let graph = LayerGraph::of(config);
        let (mut columns, mut rows, mut importance) = (HashMap::new(), HashMap::new(), Importance::default());
        progress(0, config.layers as u64);
        for block in 0..config.layers {
            let weights: Vec<&str> = graph.prunable().filter(|n| n.block == Some(block)).map(|n| n.weight.as_str()).collect();
            for group in groups(config, block, &weights) {
                let Some(factors) = group.best(source, outputs, moments)? else { continue };
                let (fed, factors) = group.feed.applied(source, config, factors)?;
                rows.insert(group.feed.weight, fed);
                columns.extend(group.weights.into_iter().map(|weight| (weight, factors.clone())));
            }
            for weight in weights {
                if let Some(moments) = moments.input(weight)? {
                    importance.learn(weight, &moments, columns.get(weight).map(Vec::as_slice));
                }
            }
            progress(block as u64 + 1, config.layers as u64);
        }
        Ok(Self { importance: Arc::new(importance), columns, rows })
    }

    fn changes(&self, name: &str) -> bool {
        self.columns.contains_key(name) || self.rows.contains_key(name)
    }
}

/// Products that share an input, and what feeds it.
struct Group {
    feed: Feed,
    weights: Vec<String>,
}

/// A norm whose numbers, or a weight whose rows, are the channels of an input.
struct Feed {
    weight: String,
    /// Where a channel of the feed reaches the input: several columns if query heads share one head of values.
    kind: FeedKind,
}

enum FeedKind {
    Norm,
    Rows,
    Values,
}

/// The groups of a block with these `weights`.
fn groups(config: &ModelConfig, block: usize, weights: &[&str]) -> Vec<Group> {
    let family = config.architecture.family();
    let mut groups = Vec::new();
    let name = |module: &str| format!("model.layers.{block}.{module}.weight");
    let mut push = |kind, feed: &str, weights: &[&str]| {
        let feed = Feed { weight: name(feed), kind };
        groups.push(Group { feed, weights: weights.iter().map(|w| name(w)).collect() });
    };
    push(FeedKind::Norm, "input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    // A bias would have to be scaled too.
    if !family.qkv_bias {
        push(FeedKind::Values, "self_attn.v_proj", &["self_attn.o_proj"]);
    }
    let norm = if family.post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    if config.experts.is_none() {
        push(FeedKind::Norm, norm, &["mlp.gate_proj", "mlp.up_proj"]);
    }
    let prefix = format!("model.layers.{block}.");
    let in_block = weights.iter().filter_map(|n| n.strip_prefix(&prefix)?.strip_suffix(".down_proj.weight"));
    for module in in_block {
        push(FeedKind::Rows, &format!("{module}.up_proj"), &[&format!("{module}.down_proj")]);
    }
    groups
}

impl Group {
    /// The best factors; `None` if none are better than none, or the input was not seen.
    fn best(
        &self,
        source: &dyn TensorSource,
        outputs: &TensorIndex,
        moments: &LayerInputs<Moments>,
    ) -> Result<Option<Vec<f32>>, CompressError> {
        let Some(moments) = self.weights.first().map_or(Ok(None), |w| moments.input(w))? else { return Ok(None) };
        let importance = moments.importance();
        let mut sampled = Vec::new();
        for weight in &self.weights {
            let (id, info) = rows::find(source, weight)?;
            let dtype = outputs.find(weight).map_or(info.dtype, |id| outputs.get(id).dtype);
            let drawn = ROWS.min(info.rows());
            for i in 0..drawn {
                let row = i * info.rows() / drawn;
                let as_written = TensorInfo { dtype, ..info.clone() };
                sampled.push((as_written, row, rows::read(source, id, row..row + 1)?));
            }
        }
        let mut best = (f64::INFINITY, None);
        for exponent in EXPONENTS {
            let factors = factors(&importance, exponent);
            let weights: Vec<f32> = importance.iter().zip(&factors).map(|(i, s)| i / (s * s)).collect();
            let mut cost = 0.0;
            for (info, row, values) in &sampled {
                let scaled: Vec<f32> = values.iter().zip(&factors).map(|(v, s)| v * s).collect();
                let searched = encode::is_searched(info.dtype);
                let weights = searched.then(|| crate::quantize::weigh(&scaled, &weights));
                let coded = rows::encode_rows(info, *row, &scaled, weights.as_deref())?;
                let mut rounded = vec![0.0; scaled.len()];
                let decoded = blocks::decode(info.dtype, &coded, &mut rounded);
                decoded.map_err(|source| CompressError::Decode { tensor: info.name.clone(), source })?;
                let errors = rounded.iter().zip(&scaled).zip(&factors).map(|((r, v), s)| (r - v) / s);
                cost += moments.cost(&errors.collect::<Vec<_>>());
            }
            if cost < best.0 {
                best = (cost, (exponent > 0.0).then_some(factors));
            }
        }
        Ok(best.1)
    }
}

/// Roots of mean squares to a power, in units that leave the middle between the smallest and the largest as it is.
fn factors(importance: &[f32], exponent: f32) -> Vec<f32> {
    // Half of the exponent: what is given are squares. `powf` differs between machines; roots and products do not.
    let power = |v: f32| {
        let (mut out, mut root, mut left) = (1.0f32, v.sqrt(), exponent);
        for _ in 0..8 {
            left *= 2.0;
            root = root.sqrt();
            if left >= 1.0 {
                left -= 1.0;
                out *= root;
            }
        }
        out
    };
    let raw: Vec<f32> = importance.iter().map(|&v| if v > 0.0 { power(v) } else { 0.0 }).collect();
    let seen = || raw.iter().copied().filter(|&v| v > 0.0);
    let (low, high) = (seen().fold(f32::INFINITY, f32::min), seen().fold(0.0, f32::max));
    let unit = (low * high).sqrt();
    let factor = |v: f32| if v > 0.0 && unit.is_normal() { (v / unit).clamp(1.0 / MOST, MOST) } else { 1.0 };
    raw.into_iter().map(factor).collect()
}

impl Feed {
    /// What the feed is multiplied by, and the factors of the columns that this really leads to.
    fn applied(
        &self,
        source: &dyn TensorSource,
        config: &ModelConfig,
        factors: Vec<f32>,
    ) -> Result<(Vec<f32>, Vec<f32>), CompressError> {
        match self.kind {
            FeedKind::Rows => Ok((factors.iter().map(|s| 1.0 / s).collect(), factors)),
            FeedKind::Values => {
                // Heads that share values share the factor, the largest.
                let (width, shared) = (config.head_dim, config.heads / config.kv_heads.max(1));
                let row_of = |column: usize| column / width / shared.max(1) * width + column % width;
                let mut rows = vec![0.0f32; config.kv_heads * width];
                factors.iter().enumerate().for_each(|(c, s)| rows[row_of(c)] = rows[row_of(c)].max(*s));
                let columns = (0..factors.len()).map(|c| rows[row_of(c)]).collect();
                Ok((rows.iter().map(|s| 1.0 / s).collect(), columns))
            }
            FeedKind::Norm => {
                let (id, info) = rows::find(source, &self.weight)?;
                let norm = rows::read(source, id, 0..1)?;
                let divided: Vec<f32> = norm.iter().zip(&factors).map(|(n, s)| n / s).collect();
                let stored = rows::encode_rows(info, 0, &divided, None)?;
                let mut rounded = vec![0.0; norm.len()];
                let decoded = blocks::decode(info.dtype, &stored, &mut rounded);
                decoded.map_err(|source| CompressError::Decode { tensor: info.name.clone(), source })?;
                let real = |(n, r): (&f32, &f32)| if (n / r).is_normal() { n / r } else { 1.0 };
                let columns: Vec<f32> = norm.iter().zip(&rounded).map(real).collect();
                Ok((columns.iter().map(|s| 1.0 / s).collect(), columns))
            }
        }
    }
}

/// The weights of a model with its factors applied. What they change is F32, norms stay in their type.
pub(crate) struct Equalized {
    source: Arc<dyn TensorSource>,
    equalization: Arc<Equalization>,
    index: TensorIndex,
}

impl Equalized {
    pub(crate) fn new(source: Arc<dyn TensorSource>, equalization: Arc<Equalization>) -> Self {
        let dtype = |t: &TensorInfo| if t.shape.len() > 1 && equalization.changes(&t.name) { DType::F32 } else { t.dtype };
        let index = source.index().with_types(dtype);
        Self { source, equalization, index }
    }

    fn scaled(&self, t: TensorId, wanted: Range<u64>) -> Result<Vec<u8>, CompressError> {
        let info = self.index.get(t);
        let mut values = rows::read(&*self.source, t, wanted.clone())?;
        let cols = (info.cols() as usize).max(1);
        if let Some(columns) = self.equalization.columns.get(&info.name) {
            values.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(columns).for_each(|(v, s)| *v *= s));
        }
        if let Some(factors) = self.equalization.rows.get(&info.name) {
            match info.shape.len() {
                1 => values.iter_mut().zip(factors).for_each(|(v, s)| *v *= s),
                _ => {
                    let rows = values.chunks_exact_mut(cols).zip(factors.get(wanted.start as usize..).unwrap_or(&[]));
                    rows.for_each(|(row, s)| row.iter_mut().for_each(|v| *v *= s));
                }
            }
        }
        rows::encode_rows(info, wanted.start, &values, None)
    }
}

impl TensorSource for Equalized {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, wanted: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.index.get(t);
        if !self.equalization.changes(&info.name) {
            return self.source.read_rows(t, wanted, out);
        }
        rows::fill(info, self.scaled(t, wanted), out)
    }
}
