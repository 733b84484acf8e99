//! Real numbers to block formats: one file per family of formats.
//!
//! Encoders use only IEEE-754 addition, subtraction, multiplication, division and comparison on `f32`, in a fixed
//! order and without fused operations, so the same values give the same bytes on every machine. A block depends on
//! its own values, and the importance of its columns, alone. Vector lanes hold different sub-blocks: there are no
//! horizontal sums.
//!
//! What searches is compiled for each width of vector ([`Wide`]); lanes do the same in each.
//!
//! Scales of compressed-tensors are numbers that BF16 holds, which is what its files have.
//!
//! Rounding: without importance, Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 round as ggml's reference encoders do (halves away from
//! zero, or up after an offset) and give the same bytes; whatever is searched rounds halves to even.

mod affine;
mod by_row;
mod group;
mod lanes;
mod pack;
mod plain;
mod simple;
mod symmetric;

use coffer_checkpoint::DType;
use coffer_kernels::{Isa, Wide};
use half::f16;
use std::{marker::PhantomData, sync::LazyLock};

/// Encodes `values`, whole blocks, or one row where [a row has one scale](DType::is_scaled_by_row), into `out` as blocks of `dtype`. `weights`, one for each value, 0 or more and finite, say how
/// much the squared error of each counts; without them all count alike.
///
/// # Errors
/// Returns [`EncodeError`] if there is no encoder for `dtype`, if the lengths contradict each other, or if a value is
/// not finite or too large for the format.
pub fn encode(dtype: DType, values: &[f32], weights: Option<&[f32]>, out: &mut [u8]) -> Result<(), EncodeError> {
    let blocks = values.len() / dtype.block_len();
    let weighted = weights.is_none_or(|w| w.len() == values.len());
    if !values.len().is_multiple_of(dtype.block_len()) || blocks * dtype.block_bytes() != out.len() || !weighted {
        return Err(EncodeError::Length { dtype, elements: values.len(), bytes: out.len() });
    }
    finite(values)?;
    if dtype.is_scaled_by_row() {
        return by_row::encode(dtype, values, out);
    }
    let encoded = match (plain_encoder(dtype), searched_encoder(dtype)) {
        (_, Some(encode)) if weights.is_some() => encode(isa(), values, weights, out),
        (Some(encode), _) => encode(values, out),
        (None, Some(encode)) => encode(isa(), values, None, out),
        (None, None) => return Err(EncodeError::Unsupported(dtype)),
    };
    encoded.map_err(|overflow| overflow.of(dtype, values))
}

/// A row of values whose scales are chosen and whose codes are not.
pub(crate) trait Row {
    /// Gives value `i` the code nearest to `v`, and returns what that code stands for.
    fn round(&mut self, i: usize, v: f32) -> f32;
    /// Writes the whole row.
    fn store(&self, out: &mut [u8]);
}

/// Searches the scales of a row for `values`, whose squared errors count as `weights`.
///
/// # Errors
/// As [`encode`]; unsupported is every type that is not [searched](is_searched).
pub(crate) fn row(dtype: DType, values: &[f32], weights: &[f32]) -> Result<Box<dyn Row>, EncodeError> {
    finite(values)?;
    if dtype.is_scaled_by_row() {
        return by_row::row(dtype, values);
    }
    let search = row_searcher(dtype).ok_or(EncodeError::Unsupported(dtype))?;
    search(values, weights).map_err(|overflow| overflow.of(dtype, values))
}

/// Whether the scales of `dtype` are chosen first and its codes then, so that [`row`] can make it.
pub(crate) fn is_searched(dtype: DType) -> bool {
    dtype.is_scaled_by_row() || searched_encoder(dtype).is_some()
}

/// Whether [`encode`] can write `dtype`.
pub fn supports(dtype: DType) -> bool {
    plain_encoder(dtype).is_some() || is_searched(dtype)
}

/// Why values could not be encoded. Indices count from the first value given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// No encoder writes this type.
    #[error("there is no encoder for {0}")]
    Unsupported(DType),
    /// Byte and element counts contradict each other.
    #[error("{elements} values do not make {bytes} bytes of {dtype}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Values given.
        elements: usize,
        /// Bytes of room.
        bytes: usize,
    },
    /// A value is NaN or infinite.
    #[error("value {index} is {value}")]
    NotFinite {
        /// Position of the value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A value, or the scale of its block, exceeds what `f16` or `bf16` can hold.
    #[error("value {index} is {value}, too large for {dtype}")]
    Overflow {
        /// Element type.
        dtype: DType,
        /// Position of the value, or of the first value of its block.
        index: usize,
        /// The value there.
        value: f32,
    },
}

/// The block that starts at `index`, or the value there, exceeds the format.
struct Overflow {
    index: usize,
}

impl Overflow {
    fn of(self, dtype: DType, values: &[f32]) -> EncodeError {
        let Self { index } = self;
        EncodeError::Overflow { dtype, index, value: values.get(index).copied().unwrap_or(f32::INFINITY) }
    }
}

/// A block of quantized values between the choice of its scales and its bytes.
trait Block<const N: usize, const B: usize>: Sized {
    /// Chooses the scales for values `x` whose squared errors count as `w`; `None` if one exceeds `f16`.
    fn search(x: &[f32; N], w: Option<&[f32; N]>) -> Option<Self>;
    /// Gives value `i` the code nearest to `v` under these scales, and returns what that code stands for.
    fn round(&mut self, i: usize, v: f32) -> f32;
    /// The same for all values, where nothing depends on what codes stand for.
    #[inline(always)]
    fn round_all(&mut self, x: &[f32; N]) {
        for (i, &v) in x.iter().enumerate() {
            self.round(i, v);
        }
    }
    /// Writes scales and codes.
    fn store(&self, out: &mut [u8; B]);
}

type Plain = fn(&[f32], &mut [u8]) -> Result<(), Overflow>;
type Searched = fn(Isa, &[f32], Option<&[f32]>, &mut [u8]) -> Result<(), Overflow>;

/// The encoder of a type that looks at the values alone.
fn plain_encoder(dtype: DType) -> Option<Plain> {
    Some(match dtype {
        DType::F32 => plain::f32,
        DType::F16 => plain::f16,
        DType::BF16 => plain::bf16,
        DType::Q8_0 => simple::q8_0,
        DType::Q4_0 => simple::q4_0,
        DType::Q4_1 => simple::q4_1,
        DType::Q5_0 => simple::q5_0,
        DType::Q5_1 => simple::q5_1,
        _ => return None,
    })
}

/// Calls `$generic::<block, values, bytes>` for the block of a type whose scales can be searched for.
macro_rules! with_block {
    ($dtype:expr, $generic:ident) => {
        Some(match $dtype {
            DType::Q4_0 => $generic::<symmetric::Q40, 32, 18>,
            DType::Q4_1 => $generic::<affine::Q41, 32, 20>,
            DType::Q5_0 => $generic::<symmetric::Q50, 32, 22>,
            DType::Q5_1 => $generic::<affine::Q51, 32, 24>,
            DType::Q2_K => $generic::<affine::Q2K, 256, 84>,
            DType::Q3_K => $generic::<symmetric::Q3K, 256, 110>,
            DType::Q4_K => $generic::<affine::Q4K, 256, 144>,
            DType::Q5_K => $generic::<affine::Q5K, 256, 176>,
            DType::Q6_K => $generic::<symmetric::Q6K, 256, 210>,
            DType::IQ4_NL => $generic::<symmetric::Iq4Nl, 32, 18>,
            DType::IQ4_XS => $generic::<symmetric::Iq4Xs, 256, 136>,
            DType::W4_G32 => $generic::<group::Group<32, false>, 32, 20>,
            DType::W4_G128 => $generic::<group::Group<128, false>, 128, 68>,
            DType::W4Z_G32 => $generic::<group::Group<32, true>, 32, 21>,
            DType::W4Z_G128 => $generic::<group::Group<128, true>, 128, 69>,
            _ => return None,
        })
    };
}

fn searched_encoder(dtype: DType) -> Option<Searched> {
    with_block!(dtype, searched)
}

/// Searches the scales of each block, then rounds each value on its own.
fn searched<T: Block<N, B>, const N: usize, const B: usize>(
    isa: Isa,
    values: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Overflow> {
    isa.run(Searching::<T, N, B> { values, weights, out, block: PhantomData })
}

struct Searching<'a, T, const N: usize, const B: usize> {
    values: &'a [f32],
    weights: Option<&'a [f32]>,
    out: &'a mut [u8],
    block: PhantomData<T>,
}

impl<T: Block<N, B>, const N: usize, const B: usize> Wide for Searching<'_, T, N, B> {
    type Output = Result<(), Overflow>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let weights = self.weights.map(|w| w.as_chunks::<N>().0);
        for (i, (x, out)) in self.values.as_chunks::<N>().0.iter().zip(self.out.as_chunks_mut::<B>().0).enumerate() {
            let mut block = T::search(x, weights.map(|w| &w[i])).ok_or(Overflow { index: i * N })?;
            block.round_all(x);
            block.store(out);
        }
        Ok(())
    }
}

/// The instruction set that everything runs on. One that is forced and not there was refused where it was first asked for.
pub(crate) fn isa() -> Isa {
    static ISA: LazyLock<Isa> = LazyLock::new(|| Isa::detect().unwrap_or(Isa::Scalar));
    *ISA
}

type RowSearcher = fn(&[f32], &[f32]) -> Result<Box<dyn Row>, Overflow>;

fn row_searcher(dtype: DType) -> Option<RowSearcher> {
    with_block!(dtype, row_of)
}

struct Blocks<T, const N: usize, const B: usize>(Vec<T>);

fn row_of<T: Block<N, B> + 'static, const N: usize, const B: usize>(
    values: &[f32],
    weights: &[f32],
) -> Result<Box<dyn Row>, Overflow> {
    let blocks = isa().run(SearchingRow::<T, N, B> { values, weights, block: PhantomData })?;
    Ok(Box::new(Blocks::<T, N, B>(blocks)))
}

struct SearchingRow<'a, T, const N: usize, const B: usize> {
    values: &'a [f32],
    weights: &'a [f32],
    block: PhantomData<T>,
}

impl<T: Block<N, B>, const N: usize, const B: usize> Wide for SearchingRow<'_, T, N, B> {
    type Output = Result<Vec<T>, Overflow>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let mut blocks = Vec::with_capacity(self.values.len() / N);
        for (i, (x, w)) in self.values.as_chunks::<N>().0.iter().zip(self.weights.as_chunks::<N>().0).enumerate() {
            blocks.push(T::search(x, Some(w)).ok_or(Overflow { index: i * N })?);
        }
        Ok(blocks)
    }
}

impl<T: Block<N, B>, const N: usize, const B: usize> Row for Blocks<T, N, B> {
    fn round(&mut self, i: usize, v: f32) -> f32 {
        self.0[i / N].round(i % N, v)
    }
    fn store(&self, out: &mut [u8]) {
        self.0.iter().zip(out.as_chunks_mut::<B>().0).for_each(|(block, out)| block.store(out));
    }
}

/// Refuses the first value that is NaN or infinite.
fn finite(values: &[f32]) -> Result<(), EncodeError> {
    const EXPONENT: u32 = 0x7f80_0000;
    let bad = |c: &[f32]| c.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT));
    let Some(chunk) = values.chunks(64).position(bad) else { return Ok(()) };
    match (chunk * 64..values.len()).find(|&i| !values[i].is_finite()) {
        Some(index) => Err(EncodeError::NotFinite { index, value: values[index] }),
        None => Ok(()),
    }
}

/// Calls `encode(block values, their weights, block bytes)` for every block; a `None` becomes an overflow of that block.
fn each_block<const N: usize, const B: usize>(
    values: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
    encode: impl Fn(&[f32; N], Option<&[f32; N]>, &mut [u8; B]) -> Option<()>,
) -> Result<(), Overflow> {
    let (blocks, _) = values.as_chunks::<N>();
    let (outs, _) = out.as_chunks_mut::<B>();
    let weights = weights.map(|w| w.as_chunks::<N>().0);
    for (i, (x, o)) in blocks.iter().zip(outs).enumerate() {
        encode(x, weights.map(|w| &w[i]), o).ok_or(Overflow { index: i * N })?;
    }
    Ok(())
}

/// `value` as `f16`, round to nearest even; `None` if that is infinite.
#[inline(always)]
fn to_f16(value: f32) -> Option<f16> {
    Some(f16::from_f32(value)).filter(|h| h.is_finite())
}

/// The `f16` of least magnitude that is not below `value`'s: a shared scale rounded down would cut off the largest
/// values, by up to half where `f16` is subnormal. `None` if it is infinite.
#[inline(always)]
fn to_f16_outward(value: f32) -> Option<f16> {
    let nearest = f16::from_f32(value);
    let short = nearest.to_f32().abs() < value.abs();
    Some(if short { f16::from_bits(nearest.to_bits() + 1) } else { nearest }).filter(|h| h.is_finite())
}

/// 1.5 · 2²³: adding and subtracting it rounds any |v| < 2²² to the nearest integer, halves to even.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn round_even(v: f32) -> f32 {
    (v + ROUND) - ROUND
}

/// A whole number from 0 to 255 as a byte: 2^23 has it in its lowest bits when it is added. Unlike `as`, which must look for others,
/// that is one vector operation.
#[inline(always)]
fn byte(whole: f32) -> u8 {
    (whole + 8_388_608.0).to_bits() as u8
}

/// The smaller of the two, in the form of one vector instruction (`f32::min` has to look for NaN).
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `1/v`, or 0 where that is not finite: so small a scale is 0 in f16 too.
#[inline(always)]
fn reciprocal(v: f32) -> f32 {
    let r = 1.0 / v;
    if r.abs() < f32::INFINITY { r } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn every_instruction_set_writes_the_same_bytes() {
        let (values, weights) = (noise(256 * 64, 1), noise(256 * 64, 2).iter().map(|w| w.abs() + 0.01).collect::<Vec<_>>());
        let mut compared = 0;
        for dtype in DType::of_weights() {
            let Some(encode) = searched_encoder(dtype) else { continue };
            for weights in [None, Some(&weights[..])] {
                let made = |isa| {
                    let mut out = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
                    assert!(encode(isa, &values, weights, &mut out).is_ok());
                    out
                };
                let plain = made(Isa::Scalar);
                assert!(Isa::available().into_iter().all(|isa| made(isa) == plain), "{dtype}");
                compared += 1;
            }
        }
        assert_eq!(compared, 2 * 15);
    }
}
