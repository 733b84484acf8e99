//! Tensors whose type the user fixes.

use super::Scheme;
use crate::CompressError;
use coffer_checkpoint::{DType, TensorInfo};
use coffer_model::names;
use coffer_store::{Model, Target};
use regex::Regex;
use std::{collections::BTreeMap, str::FromStr};

/// A type for every matrix in whose name a pattern is found: `lm_head=Q8_0`, `layers\.[01]\..*down_proj=Q6_K`.
#[derive(Clone, Debug)]
pub struct Pin {
    pattern: Regex,
    dtype: DType,
}

impl FromStr for Pin {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (pattern, dtype) = s.rsplit_once('=').ok_or("a pin is PATTERN=TYPE")?;
        Ok(Self { pattern: Regex::new(pattern).map_err(|e| e.to_string())?, dtype: dtype.parse()? })
    }
}

/// The types of all matrices of `model` that `pins` fix, by canonical name; of several pins the first decides. A pattern is sought in
/// the canonical name and in that of the container which `scheme` writes.
///
/// # Errors
/// [`CompressError::Pin`]: one fixes nothing, or a type that the container or the rows of a tensor do not have.
pub fn pinned(model: &Model, scheme: Scheme, pins: &[Pin]) -> Result<BTreeMap<String, DType>, CompressError> {
    let mut types = BTreeMap::new();
    let matrices = || model.weights.index().iter().map(|(_, info)| info).filter(|info| info.shape.len() > 1);
    let meets = |pin: &Pin, info: &TensorInfo| {
        let there = (scheme.target() == Target::Gguf).then(|| names::in_gguf(&info.name, &info.shape, &model.config)).flatten();
        pin.pattern.is_match(&info.name) || there.is_some_and(|place| pin.pattern.is_match(&place.name))
    };
    for pin in pins {
        let refused = |reason: String| CompressError::Pin { pattern: pin.pattern.to_string(), dtype: pin.dtype, reason };
        let fits_container = !pin.dtype.is_quantized() || pin.dtype.is_compressed() == (scheme.target() == Target::HuggingFace);
        if !fits_container {
            return Err(refused(format!("{scheme} goes into a container that does not have this type")));
        }
        let mut met = matrices().filter(|info| meets(pin, info)).peekable();
        if met.peek().is_none() {
            return Err(refused("no matrix has such a name".to_owned()));
        }
        for info in met {
            if pin.dtype.row_bytes(info.cols()).is_none() {
                let block = pin.dtype.block_len();
                return Err(refused(format!("the {} columns of {} are no multiple of {block}", info.cols(), info.name)));
            }
            types.entry(info.name.clone()).or_insert(pin.dtype);
        }
    }
    Ok(types)
}
