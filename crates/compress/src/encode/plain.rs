//! Unquantized types, rounded to nearest even.

use super::Overflow;
use half::{bf16, f16, slice::HalfFloatSliceExt};

pub(super) fn f32(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    for (v, o) in values.iter().zip(out.as_chunks_mut().0) {
        *o = v.to_le_bytes();
    }
    Ok(())
}

pub(super) fn f16(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    const CHUNK: usize = 64;
    let mut halves = [f16::ZERO; CHUNK];
    for (i, (x, o)) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)).enumerate() {
        let halves = &mut halves[..x.len()];
        halves.convert_from_f32_slice(x);
        for (j, (h, o)) in halves.iter().zip(o.as_chunks_mut().0).enumerate() {
            if !h.is_finite() {
                return Err(Overflow { index: i * CHUNK + j });
            }
            *o = h.to_le_bytes();
        }
    }
    Ok(())
}

pub(super) fn bf16(values: &[f32], out: &mut [u8]) -> Result<(), Overflow> {
    for (index, (&v, o)) in values.iter().zip(out.as_chunks_mut().0).enumerate() {
        let h = bf16::from_f32(v);
        if !h.is_finite() {
            return Err(Overflow { index });
        }
        *o = h.to_le_bytes();
    }
    Ok(())
}
