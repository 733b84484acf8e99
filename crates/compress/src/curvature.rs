//! How the inputs of a product vary together: what an error in one weight costs, and which other weights can make up for it.
//!
//! For `y = W x` over a calibration text, the squared error of the output is `Σ e H eᵀ` over the rows `e` of the error of `W`,
//! where `H = Σ x xᵀ`. With `H = (U + I) D (U + I)ᵀ`, `U` strictly upper triangular, that is `Σ D_k (e_k + Σ_{j<k} e_j U_jk)²`:
//! errors in earlier columns are made up for in later ones (Chee et al., "QuIP", 2023, section 3.1, where this is shown to be
//! what GPTQ does; Frantar et al., 2022).

use crate::{Calibration, CompressError, encode::isa};
use coffer_checkpoint::{DType, TensorSource};
use coffer_engine::{
    EngineError, Layerwise, LoadOptions, Observer,
    observe::{Nobody, Products},
};
use coffer_kernels::{Cpu, MatrixBuilder, MatrixError, Wide};
use coffer_model::ModelConfig;
use coffer_store::Model;
use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

/// Second moments of the inputs of a model's matrices on a text, learned a layer at a time when they are asked for. Those of one layer are
/// held: asking in the order of the layers runs the text once, and each step back runs it again.
pub struct Curvature {
    config: ModelConfig,
    source: Arc<dyn TensorSource>,
    options: LoadOptions,
    calibration: Calibration,
    text: Mutex<Text>,
}

impl fmt::Debug for Curvature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Curvature").field("text", &self.calibration.name).finish_non_exhaustive()
    }
}

/// A text somewhere in a model.
#[derive(Default)]
struct Text {
    on_the_way: Option<Layerwise>,
    /// Of the inputs of the layer that is right behind it, by canonical name of the weight; `None` if they were passed over.
    inputs: Option<HashMap<String, Arc<Moments>>>,
}

/// `Σ x xᵀ` over the tokens of one input.
pub struct Moments {
    cols: usize,
    /// `[cols, cols]`
    sums: Vec<f32>,
    tokens: u64,
    /// Made when it is first asked for.
    factor: OnceLock<Factor>,
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
    /// Of the matrices of `model`, which is run as `options` say, on `calibration`. Nothing is run yet.
    pub fn new(model: &Model, options: LoadOptions, calibration: &Calibration) -> Self {
        Self {
            config: model.config.clone(),
            source: Arc::clone(&model.weights),
            options,
            calibration: calibration.clone(),
            text: Mutex::default(),
        }
    }

    /// Of the input of `weight`; `None` if the text never met it.
    ///
    /// # Errors
    /// The engine cannot run the text, or memory runs out.
    pub fn input(&self, weight: &str) -> Result<Option<Arc<Moments>>, CompressError> {
        let Some(layer) = layer_of(weight).filter(|&layer| layer < self.config.layers) else { return Ok(None) };
        // A panic while it was held leaves a text that is between two layers, or none.
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = text.inputs_of(layer, self)?;
        Ok(inputs.get(weight).cloned())
    }

    /// How many of `weights`, from the first on, need the inputs of one layer at most: they can be worked on at the same time.
    pub(crate) fn of_one_layer<'a>(weights: impl Iterator<Item = &'a str>) -> usize {
        let mut first = None;
        let same = |weight: &&str| layer_of(weight).is_none_or(|layer| *first.get_or_insert(layer) == layer);
        weights.take_while(same).count()
    }

    /// The factor of `moments`, made by as many threads as run the text.
    pub(crate) fn factor<'a>(&self, moments: &'a Moments) -> &'a Factor {
        moments.factor(self.options.threads)
    }

    fn start(&self) -> Result<Layerwise, EngineError> {
        self.calibration.start(&self.config, Arc::clone(&self.source), self.options)
    }
}

impl Text {
    fn inputs_of(&mut self, layer: usize, of: &Curvature) -> Result<&HashMap<String, Arc<Moments>>, CompressError> {
        let mut texts = match self.on_the_way.take() {
            Some(texts) if texts.done() == layer + 1 && self.inputs.is_some() => texts,
            Some(texts) if texts.done() <= layer => {
                self.inputs = None;
                texts
            }
            // What is behind it is let go of before it begins anew.
            passed => {
                drop(passed);
                self.inputs = None;
                of.start()?
            }
        };
        while texts.done() < layer {
            texts.advance(&mut Nobody)?;
        }
        if self.inputs.is_none() {
            // The observer computes while the layers do nothing.
            let cpu = Cpu::new(of.options.isa, of.options.threads.max(1));
            let mut seen = Seen { cpu: &cpu, inputs: BTreeMap::new(), failed: None };
            texts.advance(&mut seen)?;
            seen.failed.map_or(Ok(()), Err)?;
            let mut inputs = HashMap::new();
            for (products, moments) in seen.inputs {
                let moments = Arc::new(moments);
                inputs.extend(products.weights().into_iter().map(|name| (name, Arc::clone(&moments))));
            }
            self.inputs = Some(inputs);
        }
        self.on_the_way = Some(texts);
        Ok(self.inputs.get_or_insert_default())
    }
}

/// The layer to which a weight belongs, by its canonical name.
fn layer_of(weight: &str) -> Option<usize> {
    weight.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

impl Moments {
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sum of squares of each column.
    pub fn squares(&self) -> impl Iterator<Item = f32> {
        self.sums.iter().step_by(self.cols + 1).copied()
    }

    /// Mean square of each column.
    pub fn importance(&self) -> Vec<f32> {
        self.squares().map(|s| s / self.tokens.max(1) as f32).collect()
    }

    /// What `errors` in a row of weights do to the squares of its products, `e H eᵀ`, mean over the tokens.
    pub(crate) fn cost(&self, errors: &[f32]) -> f64 {
        let rows = self.sums.chunks_exact(self.cols.max(1)).zip(errors);
        let of_row = |row: &[f32]| row.iter().zip(errors).map(|(h, e)| f64::from(h * e)).sum::<f64>();
        rows.map(|(row, &e)| f64::from(e) * of_row(row)).sum::<f64>() / self.tokens.max(1) as f64
    }

    /// The factor, columns of the largest mean square first: their errors are made up for by all that follow. Made once, by `threads`.
    pub fn factor(&self, threads: usize) -> &Factor {
        self.factor.get_or_init(|| self.factored(threads))
    }

    fn factored(&self, threads: usize) -> Factor {
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
        // From the last column to the first: it leaves a rank-one part to those before it. Several at a time, so that rows are
        // read and written once for all of them; what happens to a number happens in the same order.
        while !a.is_empty() {
            let first = a.len().saturating_sub(PANEL);
            let mut panel: Vec<Pivot> = a.drain(first..).map(|row| Pivot { row, d: 1.0 }).collect();
            for j in (0..panel.len()).rev() {
                let (before, last) = panel.split_at_mut(j);
                // Rounding can only make it too small; what is left then is damping.
                last[0].d = last[0].row[first + j].max(damping * 1e-3);
                let whole = 0..first + before.len();
                before.iter_mut().enumerate().for_each(|(i, pivot)| last[0].take_off(first + i, whole.clone(), &mut pivot.row));
            }
            take_off(&panel, &mut a, threads);
            for (j, pivot) in (first..).zip(&panel) {
                factor.weights[j] = pivot.d as f32;
                (0..j).for_each(|i| factor.feedback[i * n + j] = (pivot.row[i] / pivot.d) as f32);
            }
        }
        factor
    }
}

/// Columns that are factored together.
const PANEL: usize = 64;
/// Columns of a row from which all of a panel is taken off together: they stay in the nearest cache.
const TILE: usize = 512;

/// A row of the triangle that is done, and its diagonal.
struct Pivot {
    row: Vec<f64>,
    d: f64,
}

impl Pivot {
    /// Takes off what it leaves to `columns` of row `i`.
    #[inline(always)]
    fn take_off(&self, i: usize, columns: Range<usize>, row: &mut [f64]) {
        let u = self.row[i] / self.d;
        let columns = columns.start..columns.end.min(i + 1);
        for (a, l) in row[columns.clone()].iter_mut().zip(&self.row[columns]) {
            *a -= u * l;
        }
    }
}

/// Takes off what all of `panel`, the last first, leave to the `rows` before it.
fn take_off(panel: &[Pivot], rows: &mut [Vec<f64>], threads: usize) {
    let threads = threads.clamp(1, rows.len().max(1));
    let mut shares: Vec<Vec<(usize, &mut Vec<f64>)>> = (0..threads).map(|_| Vec::new()).collect();
    rows.iter_mut().enumerate().for_each(|(i, row)| shares[i % threads].push((i, row)));
    thread::scope(|scope| {
        for mut share in shares {
            scope.spawn(move || isa().run(TakeOff { panel, rows: &mut share }));
        }
    });
}

/// Takes off what all of a panel leave to some rows, each with its place.
struct TakeOff<'a, 'b> {
    panel: &'a [Pivot],
    rows: &'a mut [(usize, &'b mut Vec<f64>)],
}

impl Wide for TakeOff<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let longest = self.rows.last().map_or(0, |(i, _)| i + 1);
        for start in (0..longest).step_by(TILE) {
            for (i, row) in self.rows.iter_mut().filter(|(i, _)| *i >= start) {
                for pivot in self.panel.iter().rev() {
                    pivot.take_off(*i, start..start + TILE, row);
                }
            }
        }
    }
}

/// Adds up.
struct Seen<'a> {
    cpu: &'a Cpu,
    inputs: BTreeMap<Products, Moments>,
    failed: Option<CompressError>,
}

impl Observer for Seen<'_> {
    fn input(&mut self, products: Products, x: &[f32], tokens: usize) {
        if self.failed.is_none() {
            self.failed = self.add(products, x, tokens).err();
        }
    }
}

impl Seen<'_> {
    fn add(&mut self, products: Products, x: &[f32], tokens: usize) -> Result<(), CompressError> {
        let cols = x.len() / tokens.max(1);
        let moments = match self.inputs.entry(products) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(Moments::none(cols)?),
        };
        moments.tokens += tokens as u64;
        let added = add_products(self.cpu, x, tokens, &mut moments.sums);
        added.map_err(|e| CompressError::Calibration(format!("adding up what the text does: {e}")))
    }
}

impl Moments {
    fn none(cols: usize) -> Result<Self, CompressError> {
        let numbers = cols.saturating_mul(cols);
        let mut sums = Vec::new();
        let bytes = numbers.saturating_mul(size_of::<f32>());
        sums.try_reserve_exact(numbers).map_err(|_| CompressError::CurvatureMemory { bytes })?;
        sums.resize(numbers, 0.0);
        Ok(Self { cols, sums, tokens: 0, factor: OnceLock::new() })
    }
}

/// Columns whose products with all columns before them, and with one another, are added together.
const STRIP: usize = 512;

/// Adds `xᵀ x` to `sums`, for `x` `[tokens, columns]`.
fn add_products(cpu: &Cpu, x: &[f32], tokens: usize, sums: &mut [f32]) -> Result<(), MatrixError> {
    let cols = x.len() / tokens.max(1);
    let mut transposed = vec![0.0; x.len()];
    for (t, row) in x.chunks_exact(cols.max(1)).enumerate() {
        for (c, &v) in row.iter().enumerate() {
            transposed[c * tokens + t] = v;
        }
    }
    let mut products = vec![0.0; cols * STRIP.min(cols)];
    for start in (0..cols).step_by(STRIP) {
        let end = (start + STRIP).min(cols);
        let mut builder = MatrixBuilder::new(DType::F32, end - start, tokens)?;
        for row in transposed[start * tokens..end * tokens].chunks_exact(tokens) {
            builder.push_rows(&row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        let products = &mut products[..end * (end - start)];
        cpu.matmul(&[&builder.finish()?], &transposed[..end * tokens], end, &mut [&mut *products]);
        for (i, row) in products.chunks_exact(end - start).enumerate() {
            sums[i * cols + start..i * cols + end].iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
            if i < start {
                (start..end).zip(row).for_each(|(k, p)| sums[k * cols + i] += p);
            }
        }
    }
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
        Moments { cols, sums, tokens: tokens as u64, factor: OnceLock::new() }
    }

    #[test]
    fn panels_and_threads_do_not_change_a_factor() {
        let n = TILE + PANEL + 7;
        let moments = moments(n, 40);
        let factor = moments.factored(1);
        // One pivot after the other, each taken off all rows before it.
        let mean = (0..n).map(|i| f64::from(moments.sums[i * (n + 1)])).sum::<f64>() / n as f64;
        let of = |i: usize, k: usize| f64::from(moments.sums[factor.order[i] * n + factor.order[k]]);
        let mut a: Vec<Vec<f64>> = (0..n).map(|i| (0..=i).map(|k| of(i, k)).collect()).collect();
        (0..n).for_each(|i| a[i][i] += mean * DAMPING);
        while let Some(last) = a.pop() {
            let j = a.len();
            let d = last[j].max(mean * DAMPING * 1e-3);
            assert_eq!(factor.weights[j], d as f32);
            for (i, row) in a.iter_mut().enumerate() {
                let u = last[i] / d;
                assert_eq!(factor.feedback[i * n + j].to_bits(), (u as f32).to_bits(), "{i} {j}");
                row.iter_mut().zip(&last).for_each(|(a, l)| *a -= u * l);
            }
        }
        for threads in [2, 3, 7] {
            let other = moments.factored(threads);
            assert!(other.feedback == factor.feedback && other.weights == factor.weights, "{threads} threads");
        }
    }

    #[test]
    fn a_factor_multiplies_out_to_what_was_factored() {
        let moments = moments(40, 90);
        let Factor { order, weights, feedback } = moments.factor(3);
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
        let moments = Moments { tokens: 5, ..Moments::none(3).unwrap() };
        let factor = moments.factor(1);
        assert!(factor.feedback.iter().all(|&u| u == 0.0) && factor.weights.iter().all(|&d| d == 1.0));
    }

    #[test]
    fn products_are_added_up_as_a_plain_loop_does() {
        for (cols, tokens) in [(7, 33), (STRIP + 30, 3)] {
            let x = noise(cols * tokens, 9);
            let mut sums = vec![1.0; cols * cols];
            add_products(&Cpu::new(Isa::Scalar, 1), &x, tokens, &mut sums).unwrap();
            for (i, &sum) in sums.iter().enumerate() {
                let plain = (0..tokens).fold(0.0f32, |s, t| x[t * cols + i / cols].mul_add(x[t * cols + i % cols], s)) + 1.0;
                assert_eq!(sum.to_bits(), plain.to_bits(), "{i}");
            }
        }
    }
}
