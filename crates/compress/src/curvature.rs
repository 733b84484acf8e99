//! How the inputs of a product vary together: what an error in one weight costs, and which other weights can make up for it.
//!
//! For `y = W x` over a calibration text, the squared error of the output is `Σ e H eᵀ` over the rows `e` of the error of `W`,
//! where `H = Σ x xᵀ`. With `H = (U + I) D (U + I)ᵀ`, `U` strictly upper triangular, that is `Σ D_k (e_k + Σ_{j<k} e_j U_jk)²`:
//! errors in earlier columns are made up for in later ones (Chee et al., "QuIP", 2023, section 3.1, where this is shown to be
//! what GPTQ does; Frantar et al., 2022).

use crate::{Calibration, CompressError, Progress};
use coffer_checkpoint::DType;
use coffer_engine::{Engine, Observer, observe::Products};
use coffer_kernels::{Cpu, MatrixBuilder, MatrixError};
use coffer_model::LayerGraph;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

/// Second moments of the inputs of a model's matrices, by canonical name of the weight.
#[derive(Debug)]
pub struct Curvature {
    inputs: HashMap<String, Arc<Moments>>,
    /// The latest factors, with what they were made of, the last at the end. Few: weights that share an input follow one another.
    factors: Mutex<VecDeque<(Arc<Moments>, Arc<Factor>)>>,
}
/// Factors that are kept.
const KEPT: usize = 4;

/// `Σ x xᵀ` over the tokens of one input.
#[derive(Debug)]
pub struct Moments {
    cols: usize,
    /// `[cols, cols]`
    sums: Vec<f32>,
    tokens: u64,
}

/// `H = (U + I) D (U + I)ᵀ` for the columns of a weight in some order.
#[derive(Debug)]
pub struct Factor {
    /// Which column comes when.
    pub order: Vec<usize>,
    /// `D`, in that order.
    pub weights: Vec<f32>,
    /// `U`, `[cols, cols]`, in that order; what is not above the diagonal is 0.
    pub feedback: Vec<f32>,
}

/// What is added to the diagonal, as a share of its mean: text that is too short must not look like certainty.
const DAMPING: f64 = 0.01;

impl Curvature {
    /// Runs `calibration` and adds up, window by window, in the order of the text, for the inputs of the weights that are `wanted`.
    ///
    /// # Errors
    /// The engine cannot run the text, or memory runs out.
    pub fn of(
        engine: &Engine,
        calibration: &Calibration,
        wanted: &dyn Fn(&str) -> bool,
        progress: &mut Progress<'_>,
    ) -> Result<Self, CompressError> {
        fits(engine, wanted)?;
        let mut seen = Seen { cpu: engine.cpu(), wanted, inputs: BTreeMap::new(), failed: None };
        calibration.run(engine, &mut seen, progress)?;
        if let Some(error) = seen.failed {
            return Err(CompressError::Calibration(format!("adding up what the text does: {error}")));
        }
        let mut inputs = HashMap::new();
        for (products, moments) in seen.inputs {
            let moments = Arc::new(moments);
            inputs.extend(products.weights().into_iter().map(|name| (name, Arc::clone(&moments))));
        }
        Ok(Self { inputs, factors: Mutex::default() })
    }

    /// Of the input of `weight`, if it was seen.
    pub fn input(&self, weight: &str) -> Option<&Arc<Moments>> {
        self.inputs.get(weight)
    }

    /// Divides the input that `weights` share by `factors`, one for each column.
    pub(crate) fn divide(&mut self, weights: &[String], factors: &[f32]) {
        let Some(moments) = weights.first().and_then(|w| self.inputs.get(w)) else { return };
        let divided = Arc::new(moments.divided(factors));
        for weight in weights {
            self.inputs.insert(weight.clone(), Arc::clone(&divided));
        }
    }

    /// The factor of `moments`, made once while it is used.
    pub(crate) fn factor(&self, moments: &Arc<Moments>) -> Arc<Factor> {
        // A panic while it was held leaves nothing half made.
        let mut factors = self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, factor)) = factors.iter().find(|(of, _)| Arc::ptr_eq(of, moments)) {
            return Arc::clone(factor);
        }
        if factors.len() == KEPT {
            factors.pop_front();
        }
        let factor = Arc::new(moments.factor());
        factors.push_back((Arc::clone(moments), Arc::clone(&factor)));
        factor
    }
}

impl Moments {
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Mean square of each column.
    pub fn importance(&self) -> Vec<f32> {
        (0..self.cols).map(|i| self.sums[i * self.cols + i] / self.tokens.max(1) as f32).collect()
    }

    fn divided(&self, factors: &[f32]) -> Self {
        let rows = self.sums.chunks_exact(self.cols.max(1)).zip(factors);
        let sums = rows.flat_map(|(row, si)| row.iter().zip(factors).map(move |(h, sk)| h / (si * sk))).collect();
        Self { cols: self.cols, sums, tokens: self.tokens }
    }

    /// What `errors` in a row of weights do to the squares of its products, `e H eᵀ`, mean over the tokens.
    pub(crate) fn cost(&self, errors: &[f32]) -> f64 {
        let rows = self.sums.chunks_exact(self.cols.max(1)).zip(errors);
        let of_row = |row: &[f32]| row.iter().zip(errors).map(|(h, e)| f64::from(h * e)).sum::<f64>();
        rows.map(|(row, &e)| f64::from(e) * of_row(row)).sum::<f64>() / self.tokens.max(1) as f64
    }

    /// Factors it, columns of the largest mean square first: their errors are made up for by all that follow.
    pub fn factor(&self) -> Factor {
        let n = self.cols;
        let mut order: Vec<usize> = (0..n).collect();
        let diagonal = |i: usize| self.sums[i * n + i];
        order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
        let mean = (0..n).map(|i| f64::from(diagonal(i))).sum::<f64>() / n.max(1) as f64;
        let damping = if mean > 0.0 { mean * DAMPING } else { 1.0 };
        // The lower triangle, by rows.
        let mut a: Vec<Vec<f64>> =
            (0..n).map(|i| (0..=i).map(|k| f64::from(self.sums[order[i] * n + order[k]])).collect()).collect();
        (0..n).for_each(|i| a[i][i] += damping);
        let mut factor = Factor { weights: vec![0.0; n], feedback: vec![0.0; n * n], order };
        // From the last column to the first: it leaves a rank-one part to those before it.
        while let Some(last) = a.pop() {
            let j = a.len();
            // Rounding can only make it too small; what is left then is damping.
            let d = last[j].max(damping * 1e-3);
            factor.weights[j] = d as f32;
            for (i, row) in a.iter_mut().enumerate() {
                let u = last[i] / d;
                factor.feedback[i * n + j] = u as f32;
                row.iter_mut().zip(&last).for_each(|(a, l)| *a -= u * l);
            }
        }
        factor
    }
}

/// Asks for all that will be held, in one piece: a machine that lacks it says so now and not when half the text is done.
fn fits(engine: &Engine, wanted: &dyn Fn(&str) -> bool) -> Result<(), CompressError> {
    let graph = LayerGraph::of(engine.config());
    // One weight for each input.
    let first =
        |weight: &str| ["q_proj", "o_proj", "gate_proj", "down_proj"].iter().any(|m| weight.ends_with(&format!(".{m}.weight")));
    let cols = graph.prunable().filter(|node| first(&node.weight) && wanted(&node.weight)).filter_map(|node| node.shape.last());
    let numbers = cols.fold(0usize, |n, &cols| n.saturating_add((cols as usize).saturating_mul(cols as usize)));
    let bytes = numbers.saturating_mul(size_of::<f32>());
    Vec::<f32>::new().try_reserve_exact(numbers).map_err(|_| CompressError::CurvatureMemory { bytes })
}

/// Adds up.
struct Seen<'a> {
    cpu: &'a Cpu,
    wanted: &'a dyn Fn(&str) -> bool,
    inputs: BTreeMap<Products, Moments>,
    failed: Option<MatrixError>,
}

impl Observer for Seen<'_> {
    fn input(&mut self, products: Products, x: &[f32], tokens: usize) {
        if !products.weights().iter().any(|weight| (self.wanted)(weight)) {
            return;
        }
        let cols = x.len() / tokens.max(1);
        let moments = self.inputs.entry(products).or_insert_with(|| Moments { cols, sums: vec![0.0; cols * cols], tokens: 0 });
        moments.tokens += tokens as u64;
        if let Err(error) = add_products(self.cpu, x, tokens, &mut moments.sums) {
            self.failed = Some(error);
        }
    }
}

/// Adds `xᵀ x` to `sums`, for `x` `[tokens, columns]`.
fn add_products(cpu: &Cpu, x: &[f32], tokens: usize, sums: &mut [f32]) -> Result<(), MatrixError> {
    let cols = x.len() / tokens.max(1);
    let mut transposed = vec![0.0; x.len()];
    for (t, row) in x.chunks_exact(cols.max(1)).enumerate() {
        for (c, &v) in row.iter().enumerate() {
            transposed[c * tokens + t] = v;
        }
    }
    let mut builder = MatrixBuilder::new(DType::F32, cols, tokens)?;
    for row in transposed.chunks_exact(tokens.max(1)) {
        builder.push_rows(&row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    let matrix = builder.finish()?;
    let mut products = vec![0.0; sums.len()];
    cpu.matmul(&[&matrix], &transposed, cols, &mut [&mut products]);
    sums.iter_mut().zip(&products).for_each(|(sum, p)| *sum += p);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::noise;
    use coffer_kernels::Isa;

    /// Moments of `tokens` made-up inputs in which columns go together.
    pub(crate) fn moments(cols: usize, tokens: usize) -> Moments {
        let (raw, shared) = (noise(cols * tokens, 5), noise(tokens, 6));
        let x = |t: usize, c: usize| raw[t * cols + c] * (1.0 + c as f32 / 8.0) + shared[t];
        let sums = (0..cols * cols).map(|i| (0..tokens).map(|t| x(t, i / cols) * x(t, i % cols)).sum()).collect();
        Moments { cols, sums, tokens: tokens as u64 }
    }

    #[test]
    fn a_factor_multiplies_out_to_what_was_factored() {
        let moments = moments(40, 90);
        let Factor { order, weights, feedback } = moments.factor();
        let mean = (0..40).map(|i| f64::from(moments.sums[i * 41])).sum::<f64>() / 40.0;
        let u = |i: usize, k: usize| if i == k { 1.0 } else { f64::from(feedback[i * 40 + k]) };
        for i in 0..40 {
            for k in 0..40 {
                let product: f64 = (0..40).map(|d| u(i, d) * f64::from(weights[d]) * u(k, d)).sum();
                let damped = f64::from(moments.sums[order[i] * 40 + order[k]]) + if i == k { mean * DAMPING } else { 0.0 };
                assert!((product - damped).abs() < 1e-4 * mean, "{i} {k}: {product} for {damped}");
            }
        }
        assert!(order.is_sorted_by(|&a, &b| moments.sums[a * 41] >= moments.sums[b * 41]));
    }

    #[test]
    fn inputs_that_are_all_zero_have_a_factor_too() {
        let factor = Moments { cols: 3, sums: vec![0.0; 9], tokens: 5 }.factor();
        assert!(factor.feedback.iter().all(|&u| u == 0.0) && factor.weights.iter().all(|&d| d == 1.0));
    }

    #[test]
    fn products_are_added_up_as_a_plain_loop_does() {
        let (cols, tokens) = (7, 33);
        let x = noise(cols * tokens, 9);
        let mut sums = vec![1.0; cols * cols];
        add_products(&Cpu::new(Isa::Scalar, 1), &x, tokens, &mut sums).unwrap();
        for (i, &sum) in sums.iter().enumerate() {
            let plain = (0..tokens).fold(0.0f32, |s, t| x[t * cols + i / cols].mul_add(x[t * cols + i % cols], s)) + 1.0;
            assert_eq!(sum.to_bits(), plain.to_bits(), "{i}");
        }
    }
}
