//! What the types of a quantized model mean: which mixture they are, and why each tensor has its own.

use super::{
    Scheme,
    mixture::{Facts, HEAD},
};
use coffer_checkpoint::{DType, TensorInfo};
use coffer_store::Model;
use std::collections::BTreeMap;

/// The mixture that the types of a model come nearest to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The mixture.
    pub scheme: Scheme,
    /// The type of most matrices in it, for readers.
    pub about: &'static str,
    /// Tensors that have another type than it gives them: fixed by somebody, or chosen by measurement.
    pub others: usize,
    /// Why each tensor has its type, by canonical name.
    pub why: BTreeMap<String, String>,
}

/// Tells the mixture of `model`; `None` if nothing in it is quantized, or no mixture has such types.
pub fn explain(model: &Model) -> Option<Explanation> {
    let index = model.weights.index();
    if !index.iter().any(|(_, t)| t.dtype.is_quantized()) {
        return None;
    }
    let tied = index.find(HEAD).is_none();
    let facts = |importance| Facts { config: &model.config, tied, importance };
    // Vectors are read in the type that they had before GGUF widened them.
    let matrices: Vec<&TensorInfo> = index.iter().map(|(_, t)| t).filter(|t| t.shape.len() > 1).collect();
    let others =
        |scheme: Scheme, importance| matrices.iter().filter(|t| scheme.dtype_of(t, facts(importance)) != t.dtype).count();
    let all = Scheme::ALL.into_iter().flat_map(|scheme| [(scheme, false), (scheme, true)]);
    let (others, (scheme, importance)) = all.map(|way| (others(way.0, way.1), way)).min_by_key(|(others, _)| *others)?;
    if others * 2 > matrices.len() {
        return None;
    }
    let why = |t: &TensorInfo| {
        let (dtype, why) = scheme.choose(t, facts(importance));
        match dtype == t.dtype || t.shape.len() < 2 {
            true => why.to_string(),
            false => format!("not {scheme}'s {dtype}: fixed by somebody, or chosen by measurement"),
        }
    };
    let why = index.iter().map(|(_, t)| (t.name.clone(), why(t))).collect();
    Some(Explanation { scheme, about: about(scheme.main()), others, why })
}

/// How weights of a type are stored.
fn about(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 | DType::BF16 => "16 bits, rounded to the nearest",
        DType::Q8_0 => "8.5 bits: blocks of 32 with one scale, 8-bit codes",
        DType::Q6_K => "6.56 bits: super-blocks of 16 x 16 with 8-bit scales, 6-bit codes",
        DType::Q5_1 => "6 bits: blocks of 32 with a scale and a minimum, 5-bit codes",
        DType::Q5_K => "5.5 bits: super-blocks of 8 x 32 with 6-bit scales and minima, 5-bit codes",
        DType::Q5_0 => "5.5 bits: blocks of 32 with one scale, 5-bit codes",
        DType::Q4_1 => "5 bits: blocks of 32 with a scale and a minimum, 4-bit codes",
        DType::Q4_K => "4.5 bits: super-blocks of 8 x 32 with 6-bit scales and minima, 4-bit codes",
        DType::Q4_0 => "4.5 bits: blocks of 32 with one scale, 4-bit codes",
        DType::IQ4_NL => "4.5 bits: blocks of 32 with one scale, 4-bit codes for 16 unequal steps",
        DType::IQ4_XS => "4.25 bits: super-blocks of 8 x 32 with 6-bit scales, 4-bit codes for 16 unequal steps",
        DType::Q3_K => "3.44 bits: super-blocks of 16 x 16 with 6-bit scales, 3-bit codes",
        DType::Q2_K => "2.63 bits: super-blocks of 16 x 16 with 4-bit scales and minima, 2-bit codes",
        DType::W4_G32 => "4.5 bits: a scale for 32 columns, 4-bit codes",
        DType::W4_G128 => "4.13 bits: a scale for 128 columns, 4-bit codes",
        DType::W4Z_G32 => "4.63 bits: a scale and a zero point for 32 columns, 4-bit codes",
        DType::W4Z_G128 => "4.16 bits: a scale and a zero point for 128 columns, 4-bit codes",
        DType::W8_ROW => "8 bits: a scale for a row, 8-bit codes; activations are rounded to 8 bits too",
        DType::F8_ROW => "8 bits: a scale for a row, E4M3 numbers; activations are rounded to E4M3 too",
        _ => "not rounded",
    }
}
