//! Second moments of the inputs of a layer's matrices.

use crate::CompressError;
use coffer_checkpoint::DType;
use coffer_engine::{Observer, observe::Products};
use coffer_kernels::{Cpu, MatrixBuilder, MatrixError};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

/// `Σ x xᵀ` over the tokens of one input.
pub struct Moments {
    cols: usize,
    /// `[cols, cols]`
    sums: Vec<f32>,
    tokens: u64,
}

impl Moments {
    /// Of no token yet.
    pub(crate) fn none(cols: usize) -> Result<Self, CompressError> {
        let numbers = cols.saturating_mul(cols);
        let mut sums = Vec::new();
        let bytes = numbers.saturating_mul(size_of::<f32>());
        sums.try_reserve_exact(numbers).map_err(|_| CompressError::CurvatureMemory { bytes })?;
        sums.resize(numbers, 0.0);
        Ok(Self { cols, sums, tokens: 0 })
    }

    /// Copies what is above the diagonal to what is below.
    fn mirror(&mut self) {
        let n = self.cols;
        for (rows, columns) in tiles(n, n) {
            for i in rows {
                for k in columns.clone().filter(|&k| k > i) {
                    self.sums[k * n + i] = self.sums[i * n + k];
                }
            }
        }
    }

    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sum of the products of two columns.
    pub(crate) fn sum(&self, i: usize, k: usize) -> f32 {
        self.sums[i * self.cols + k]
    }

    /// Sum of squares of each column.
    pub(crate) fn squares(&self) -> impl Iterator<Item = f32> {
        self.sums.iter().step_by(self.cols + 1).copied()
    }

    /// Mean square of each column.
    pub(crate) fn importance(&self) -> Vec<f32> {
        self.squares().map(|s| s / self.tokens.max(1) as f32).collect()
    }

    /// What `errors` in a row of weights do to the squares of its products, `e H eᵀ`, mean over the tokens.
    pub(crate) fn cost(&self, errors: &[f32]) -> f64 {
        let rows = self.sums.chunks_exact(self.cols.max(1)).zip(errors);
        let of_row = |row: &[f32]| row.iter().zip(errors).map(|(h, e)| f64::from(h * e)).sum::<f64>();
        rows.map(|(row, &e)| f64::from(e) * of_row(row)).sum::<f64>() / self.tokens.max(1) as f64
    }
}

/// Adds up what it sees.
pub(crate) struct Seen<'a> {
    cpu: &'a Cpu,
    inputs: BTreeMap<Products, Moments>,
    failed: Option<CompressError>,
}

impl<'a> Seen<'a> {
    /// Nothing; `cpu` adds up.
    pub(crate) fn new(cpu: &'a Cpu) -> Self {
        Self { cpu, inputs: BTreeMap::new(), failed: None }
    }

    /// What was seen of each input.
    ///
    /// # Errors
    /// Memory ran out.
    pub(crate) fn inputs(mut self) -> Result<BTreeMap<Products, Moments>, CompressError> {
        self.inputs.values_mut().for_each(Moments::mirror);
        self.failed.map_or(Ok(self.inputs), Err)
    }
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

/// Columns whose products with all columns before them, and with one another, are added together.
const STRIP: usize = 512;

/// Pieces of a matrix of `rows` and `cols` that stay in the nearest cache together with what they are turned into.
fn tiles(rows: usize, cols: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    const SIDE: usize = 32;
    let cut = |len: usize| (0..len).step_by(SIDE).map(move |start| start..(start + SIDE).min(len));
    cut(rows).flat_map(move |rows| cut(cols).map(move |cols| (rows.clone(), cols)))
}

/// Adds what is on and above the diagonal of `xᵀ x` to `sums`, for `x` `[tokens, columns]`; what is below is of no meaning.
fn add_products(cpu: &Cpu, x: &[f32], tokens: usize, sums: &mut [f32]) -> Result<(), MatrixError> {
    let cols = x.len() / tokens.max(1);
    let mut transposed = vec![0.0; x.len()];
    for (rows, columns) in tiles(tokens, cols) {
        for t in rows {
            columns.clone().for_each(|c| transposed[c * tokens + t] = x[t * cols + c]);
        }
    }
    let mut products = vec![0.0; cols * STRIP.min(cols)];
    for start in (0..cols).step_by(STRIP) {
        let end = (start + STRIP).min(cols);
        let mut builder = MatrixBuilder::new(DType::F32, end - start, tokens)?;
        for row in transposed[start * tokens..end * tokens].chunks_exact(tokens.max(1)) {
            builder.push_rows(&row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        let products = &mut products[..end * (end - start)];
        cpu.matmul(&[&builder.finish()?], &transposed[..end * tokens], end, &mut [&mut *products]);
        for (i, row) in products.chunks_exact(end - start).enumerate() {
            sums[i * cols + start..i * cols + end].iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
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
        Moments { cols, sums, tokens: tokens as u64 }
    }

    #[test]
    fn products_are_added_up_as_a_plain_loop_does() {
        for (cols, tokens) in [(7, 33), (STRIP + 30, 3)] {
            let x = noise(cols * tokens, 9);
            let mut moments = Moments { cols, sums: vec![1.0; cols * cols], tokens: tokens as u64 };
            add_products(&Cpu::new(Isa::Scalar, 1), &x, tokens, &mut moments.sums).unwrap();
            moments.mirror();
            for (i, &sum) in moments.sums.iter().enumerate() {
                let plain = (0..tokens).fold(0.0f32, |s, t| x[t * cols + i / cols].mul_add(x[t * cols + i % cols], s)) + 1.0;
                assert_eq!(sum.to_bits(), plain.to_bits(), "{i}");
            }
        }
    }
}
