//! Mixtures by measurement: bits are spent where they take most off the divergence.
//!
//! Each matrix is rounded alone to a coarse type and the divergence of the model measured. Near the source divergence grows with the
//! square of what is changed, so that the other types follow from how much less they change, measured on some rows. Divergences of
//! matrices add up about; what they do together is measured where a divergence was asked for.

use super::{Feedback, Quantize, QuantizeParams, Rounded, Rounding, mixture};
use crate::{CompressError, Method, driver, layer_inputs::layer_of, rows};
use coffer_checkpoint::{DType, TensorInfo, blocks};
use coffer_model::names;
use coffer_store::Model;
use std::{collections::BTreeMap, sync::Arc};

/// What a mixture must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A GGUF file of at most so many bytes.
    Bytes(u64),
    /// At most so many bits for each weight, of all weights.
    BitsPerWeight(f64),
    /// At most this mean divergence from the source, nats.
    Divergence(f64),
}

/// Says how far models are from the source: their mean divergences from it, nats.
pub type Measure<'a, E> = dyn FnMut(Vec<Variant>) -> Result<Vec<f64>, E> + 'a;

/// The source with some matrices rounded.
pub struct Variant {
    /// The only layer in which some are; `None`: they are elsewhere, or in several.
    pub layer: Option<usize>,
    /// Its weights.
    pub weights: Arc<Rounded>,
}

/// What every matrix takes and does in every type.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    units: Vec<Unit>,
    /// Bytes of all that has no choice.
    fixed: u64,
    /// Bytes of a file that are no weights.
    overhead: u64,
    /// Numbers in all tensors.
    weights: u64,
}

/// Matrices that must be of one type: those that the container stacks.
#[derive(Clone, Debug, PartialEq)]
struct Unit {
    tensors: Vec<TensorInfo>,
    /// From the smallest to the largest.
    options: Vec<Choice>,
}

/// A type for a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Choice {
    dtype: DType,
    bytes: u64,
    /// Divergence of the model if only this unit is rounded, nats.
    divergence: f64,
}

/// A mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Type of every matrix that had a choice.
    pub types: BTreeMap<String, DType>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// The divergence that is expected of it, or was measured, nats.
    pub divergence: f64,
}

/// Types among which is chosen, the smallest first.
const TYPES: [DType; 7] = [DType::Q2_K, DType::Q3_K, DType::IQ4_XS, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_0];
/// Mixtures that are measured for a divergence.
const TRIES: usize = 5;
/// Rows of a matrix on which its types are compared.
const ROWS: u64 = 32;

impl Costs {
    /// Measures `model`, rounded as `params` say; tensors of `params.types` have no choice.
    ///
    /// # Errors
    /// A weight is no number, or `measure` fails.
    pub fn measure<E: From<CompressError>>(
        model: &Model,
        params: &QuantizeParams,
        measure: &mut Measure<'_, E>,
    ) -> Result<Self, E> {
        let index = model.weights.index();
        let planned = Quantize::of(model, params);
        let infos: Vec<TensorInfo> = planned.plan()?.into_iter().map(|task| task.output).collect();
        let overhead = coffer_store::gguf_overhead(model, &infos).map_err(CompressError::from)?;
        let outputs = driver::plan(&planned, 0, 1)?.outputs;
        let (mut stacks, mut fixed, mut weights) = (BTreeMap::<usize, Vec<TensorInfo>>::new(), 0u64, 0u64);
        let mut first_of = BTreeMap::new();
        for (at, ((_, info), output)) in index.iter().zip(&outputs).enumerate() {
            weights = weights.saturating_add(info.elements().unwrap_or(0));
            let chosen = info.shape.len() > 1 && !mixture::is_router(&info.name) && !params.types.contains_key(&info.name);
            if !chosen {
                fixed += output.bytes;
                continue;
            }
            let place = names::in_gguf(&info.name, &info.shape, &model.config).map_or_else(|| info.name.clone(), |p| p.name);
            let first = *first_of.entry(place).or_insert(at);
            stacks.entry(first).or_default().push(info.clone());
        }
        let stacks = stacks.into_values().map(Stack::new).collect::<Result<Vec<_>, CompressError>>()?;
        let seen = measure(stacks.iter().map(|stack| stack.rounded_alone(model, params)).collect())?;
        let units = stacks.into_iter().zip(seen).map(|(stack, seen)| Ok(stack.priced(model, params, seen)?));
        let units = units.collect::<Result<_, E>>()?;
        Ok(Self { units, fixed, overhead, weights })
    }

    /// The best mixture for `goal`; a divergence is the sum of those of all units times `together`.
    ///
    /// # Errors
    /// [`CompressError::Goal`]: no mixture meets it.
    pub fn choose(&self, goal: Goal, together: f64) -> Result<Mixture, CompressError> {
        let mut at = vec![0usize; self.units.len()];
        let of = |at: &[usize]| -> Mixture {
            let chosen = || self.units.iter().zip(at).map(|(unit, &i)| (unit, unit.options[i]));
            let types = chosen().flat_map(|(unit, c)| unit.tensors.iter().map(move |t| (t.name.clone(), c.dtype)));
            let bytes = chosen().fold(self.fixed, |n, (_, c)| n.saturating_add(c.bytes));
            Mixture { types: types.collect(), bytes, divergence: together * chosen().map(|(_, c)| c.divergence).sum::<f64>() }
        };
        let most = match goal {
            Goal::Bytes(bytes) => bytes.saturating_sub(self.overhead),
            Goal::BitsPerWeight(bits) => (bits * self.weights as f64 / 8.0) as u64,
            Goal::Divergence(_) => u64::MAX,
        };
        let least = of(&at);
        if least.bytes > most {
            let reason = format!("the smallest mixture has {} bytes of weights, and {most} are left for them", least.bytes);
            return Err(CompressError::Goal { reason });
        }
        let mut bytes = least.bytes;
        let mut left = least.divergence;
        for Step { unit, to, gain, .. } in self.steps() {
            if matches!(goal, Goal::Divergence(most) if left <= most) {
                break;
            }
            // A unit whose step did not fit takes none that follow it.
            let from = self.units[unit].options[at[unit]];
            let more = self.units[unit].options[to].bytes - from.bytes;
            if bytes + more <= most && self.units[unit].follows(at[unit], to) {
                at[unit] = to;
                bytes += more;
                left -= together * gain;
            }
        }
        match goal {
            Goal::Divergence(most) if left > most => {
                let reason = format!("the best mixture is expected to diverge by {left:.6}, and {most} is asked for");
                Err(CompressError::Goal { reason })
            }
            _ => Ok(of(&at)),
        }
    }

    /// The best mixture for `goal`; whether a divergence is met is measured, since those of matrices do not add up just so.
    ///
    /// # Errors
    /// [`CompressError::Goal`]: no mixture meets it, or `measure` fails.
    pub fn meet<E: From<CompressError>>(
        &self,
        model: &Model,
        params: &QuantizeParams,
        goal: Goal,
        measure: &mut Measure<'_, E>,
    ) -> Result<Mixture, E> {
        let mut mixture = self.choose(goal, 1.0)?;
        let Goal::Divergence(most) = goal else { return Ok(mixture) };
        let mut met: Option<Mixture> = None;
        let mut together = 1.0;
        for _ in 0..TRIES {
            let mut types = params.types.clone();
            types.extend(mixture.types.clone());
            let weights = Arc::new(Rounded::with(model, &QuantizeParams { types, ..params.clone() }));
            let found = measure(vec![Variant { layer: None, weights }])?.first().copied().unwrap_or(f64::INFINITY);
            together *= if mixture.divergence > 0.0 { found / mixture.divergence } else { 1.0 };
            let measured = Mixture { divergence: found, ..mixture };
            if found <= most && met.as_ref().is_none_or(|met| measured.bytes < met.bytes) {
                met = Some(measured);
            }
            match self.choose(goal, together) {
                Ok(next) => mixture = next,
                Err(e) if met.is_none() => return Err(e.into()),
                Err(_) => break,
            }
        }
        let none = || CompressError::Goal { reason: format!("no mixture was found that meets {goal:?}") };
        met.ok_or_else(|| none().into())
    }

    /// All steps to larger types along each unit's hull, those that gain most for their bytes first.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (unit, of) in self.units.iter().enumerate() {
            for pair in of.hull().windows(2) {
                let (from, to) = (of.options[pair[0]], of.options[pair[1]]);
                let gain = from.divergence - to.divergence;
                steps.push(Step { unit, to: pair[1], gain, worth: gain / (to.bytes - from.bytes).max(1) as f64 });
            }
        }
        steps.sort_by(|a, b| b.worth.total_cmp(&a.worth).then(a.unit.cmp(&b.unit)).then(a.to.cmp(&b.to)));
        steps
    }
}

/// From one type of a unit to a larger.
struct Step {
    unit: usize,
    to: usize,
    /// What it takes off the divergence, and that for each byte.
    gain: f64,
    worth: f64,
}

/// Matrices that become a unit.
struct Stack {
    tensors: Vec<TensorInfo>,
    /// Bytes in each type, from the smallest.
    types: Vec<(u64, DType)>,
}

impl Stack {
    fn new(tensors: Vec<TensorInfo>) -> Result<Self, CompressError> {
        let size = |dtype: DType| -> Result<u64, CompressError> {
            let bytes = |t: &TensorInfo| TensorInfo { dtype, ..t.clone() }.bytes();
            tensors.iter().try_fold(0u64, |n, t| n.checked_add(bytes(t)?)).ok_or_else(|| rows::too_large(&tensors[0]))
        };
        let fitting = TYPES.iter().map(|&d| mixture::fitting(d, tensors[0].cols()));
        let mut types = fitting.map(|d| Ok((size(d)?, d))).collect::<Result<Vec<_>, CompressError>>()?;
        types.sort();
        types.dedup();
        Ok(Self { tensors, types })
    }

    /// A type coarse enough to be seen, not so coarse that the model falls apart.
    fn coarse(&self) -> DType {
        self.types[self.types.len().min(2) - 1].1
    }

    fn rounded_alone(&self, model: &Model, params: &QuantizeParams) -> Variant {
        let types = kept(model, &self.tensors, self.coarse());
        let layer = layer_of(&self.tensors[0].name);
        Variant { layer, weights: Arc::new(Rounded::with(model, &QuantizeParams { types, ..params.clone() })) }
    }

    /// `seen` is the divergence of the model if these alone are coarse.
    fn priced(self, model: &Model, params: &QuantizeParams, seen: f64) -> Result<Unit, CompressError> {
        let squares = |dtype: DType| changed(model, params, &self.tensors, dtype);
        let unit = squares(self.coarse())?;
        let mut options = Vec::with_capacity(self.types.len());
        for &(bytes, dtype) in &self.types {
            let share = if unit > 0.0 { squares(dtype)? / unit } else { 0.0 };
            options.push(Choice { dtype, bytes, divergence: seen * share });
        }
        Ok(Unit { tensors: self.tensors, options })
    }
}

impl Unit {
    /// Options that no two others make worse than useless: each step gains less for its bytes than the one before.
    fn hull(&self) -> Vec<usize> {
        let worth = |a: usize, b: usize| {
            let (a, b) = (self.options[a], self.options[b]);
            (a.divergence - b.divergence) / (b.bytes - a.bytes).max(1) as f64
        };
        let mut hull = vec![0];
        for i in 1..self.options.len() {
            if worth(hull[hull.len() - 1], i) <= 0.0 {
                continue;
            }
            while hull.len() > 1 && worth(hull[hull.len() - 1], i) >= worth(hull[hull.len() - 2], hull[hull.len() - 1]) {
                hull.pop();
            }
            hull.push(i);
        }
        hull
    }

    /// Whether `to` comes right after `from` on the hull.
    fn follows(&self, from: usize, to: usize) -> bool {
        self.hull().windows(2).any(|pair| pair == [from, to])
    }
}

/// Types that leave the model as it is but for `tensors`.
fn kept(model: &Model, tensors: &[TensorInfo], dtype: DType) -> BTreeMap<String, DType> {
    let own = model.weights.index().iter().map(|(_, info)| (info.name.clone(), info.dtype));
    own.chain(tensors.iter().map(|t| (t.name.clone(), dtype))).collect()
}

/// What rounding to `dtype` changes in the products of some rows: squares of errors in the weights, each as its input counts.
fn changed(model: &Model, params: &QuantizeParams, tensors: &[TensorInfo], dtype: DType) -> Result<f64, CompressError> {
    let mut sum = 0.0;
    let method = Quantize::of(model, &QuantizeParams { types: kept(model, tensors, dtype), ..params.clone() });
    for tensor in tensors {
        let task = rows::task_by_rows(TensorInfo { dtype, ..tensor.clone() }, 1)?;
        let (id, info) = rows::find(&*model.weights, &tensor.name)?;
        let drawn = ROWS.min(info.rows());
        for i in 0..drawn {
            let row = i * info.rows() / drawn;
            let there = rows::read(&*model.weights, id, row..row + 1)?;
            let mut here = vec![0.0; there.len()];
            let made = method.run(&task, row..row + 1)?;
            let decoded = blocks::decode(dtype, &made, &mut here);
            decoded.map_err(|source| CompressError::Decode { tensor: tensor.name.clone(), source })?;
            let errors: Vec<f32> = there.iter().zip(&here).map(|(a, b)| a - b).collect();
            sum += method.cost(&info.name, &errors)?;
        }
    }
    Ok(sum)
}

impl Quantize {
    /// What errors in a row of a matrix cost, as far as its inputs are known.
    fn cost(&self, name: &str, errors: &[f32]) -> Result<f64, CompressError> {
        let square = |e: &f32| f64::from(*e) * f64::from(*e);
        let columns = match &self.rounding {
            Rounding::Feedback(Feedback(curvature)) => match curvature.input(name)? {
                Some(factor) => return Ok(factor.cost(errors)),
                None => None,
            },
            Rounding::Weighted(_, importance) => importance.columns(name, errors.len() as u64)?,
            Rounding::Nearest => None,
        };
        Ok(match columns {
            Some(columns) => errors.iter().zip(&columns).map(|(e, c)| square(e) * f64::from(*c)).sum(),
            None => errors.iter().map(square).sum(),
        })
    }
}
