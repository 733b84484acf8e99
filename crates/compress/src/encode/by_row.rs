//! Eight bits of compressed-tensors with one scale for a row: whole numbers, and E4M3.
//!
//! The scale is the least that BF16 holds at which nothing is cut off.

use super::{EncodeError, Overflow, Row, greatest, least, reciprocal, round_even};
use coffer_checkpoint::DType;

/// Columns of a block; each repeats the scale (f32).
const BLOCK: usize = 32;

/// Numbers that codes of eight bits stand for.
trait Coding {
    /// The largest value in units of the scale.
    const RANGE: f32;
    /// The nearest number, and its code.
    fn nearest(v: f32) -> (f32, u8);
}

/// −128 to 127; the range is half a step more, so that what is largest is not off by more than any other value.
struct Whole;

impl Coding for Whole {
    const RANGE: f32 = 127.5;
    #[inline(always)]
    fn nearest(v: f32) -> (f32, u8) {
        let q = round_even(greatest(least(v, 127.0), -128.0));
        (q, q as i8 as u8)
    }
}

/// Four bits of exponent, three of fraction.
struct E4m3;

impl Coding for E4m3 {
    const RANGE: f32 = 448.0;
    fn nearest(v: f32) -> (f32, u8) {
        let magnitude = least(v.abs(), Self::RANGE);
        // The exponent, of what is below 2⁻⁶ that of 2⁻⁶: there steps are even.
        let exponent = (magnitude.to_bits() >> 23).max(127 - 6);
        let step = f32::from_bits((exponent - 3) << 23);
        let steps = round_even(magnitude / step);
        // Rounding up to 16 steps carries into the exponent.
        let byte = ((exponent - 121) << 3) as u8 + steps as u8;
        let (q, sign) = (steps * step, u8::from(v.is_sign_negative()) << 7);
        (q.copysign(v), byte | sign)
    }
}

/// Writes one row.
pub(super) fn encode(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    let mut row = row(dtype, values)?;
    for (i, &v) in values.iter().enumerate() {
        row.round(i, v);
    }
    row.store(out);
    Ok(())
}

/// Chooses the scale of a row.
pub(super) fn row(dtype: DType, values: &[f32]) -> Result<Box<dyn Row>, EncodeError> {
    let made: Result<Box<dyn Row>, Overflow> = match dtype {
        DType::W8_ROW => Scaled::<Whole>::of(values).map(|row| Box::new(row) as _),
        DType::F8_ROW => Scaled::<E4m3>::of(values).map(|row| Box::new(row) as _),
        _ => return Err(EncodeError::Unsupported(dtype)),
    };
    made.map_err(|overflow| overflow.of(dtype, values))
}

struct Scaled<C> {
    d: f32,
    inverse: f32,
    codes: Vec<u8>,
    coding: std::marker::PhantomData<C>,
}

impl<C: Coding> Scaled<C> {
    fn of(values: &[f32]) -> Result<Self, Overflow> {
        let largest = values.iter().fold(0.0f32, |m, v| greatest(m, v.abs()));
        let d = outward(largest / C::RANGE);
        // Of whole numbers the lowest is half a step beyond the range.
        if !(d * (C::RANGE + 0.5)).is_finite() {
            return Err(Overflow { index: 0 });
        }
        Ok(Self { d, inverse: reciprocal(d), codes: vec![0; values.len()], coding: std::marker::PhantomData })
    }
}

impl<C: Coding> Row for Scaled<C> {
    fn round(&mut self, i: usize, v: f32) -> f32 {
        let (q, code) = C::nearest(v * self.inverse);
        self.codes[i] = code;
        q * self.d
    }

    fn store(&self, out: &mut [u8]) {
        for (codes, out) in self.codes.chunks_exact(BLOCK).zip(out.chunks_exact_mut(4 + BLOCK)) {
            out[..4].copy_from_slice(&self.d.to_le_bytes());
            out[4..].copy_from_slice(codes);
        }
    }
}

/// The least BF16 that is not below `v`, which is 0 or more.
fn outward(v: f32) -> f32 {
    f32::from_bits(v.to_bits().saturating_add(0xffff) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_checkpoint::blocks::e4m3;

    #[test]
    fn every_number_of_e4m3_is_found_and_between_two_the_nearer_or_the_even_one() {
        let numbers: Vec<f32> = (0..=0x7e).map(e4m3).collect();
        assert_eq!((numbers[1], numbers[8], numbers[0x7e]), (1.0 / 512.0, 1.0 / 64.0, 448.0));
        for (code, pair) in numbers.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            let half = (low + high) / 2.0;
            let even = code + code % 2;
            for (v, want) in [(low, code), (high, code + 1), (half, even), (half.next_down(), code), (half.next_up(), code + 1)] {
                assert_eq!(E4m3::nearest(v), (numbers[want], want as u8), "{v}");
                assert_eq!(E4m3::nearest(-v), (-numbers[want], want as u8 | 0x80), "-{v}");
            }
        }
        assert_eq!(E4m3::nearest(1e9), (448.0, 0x7e));
    }
}
