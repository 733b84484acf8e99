//! Block formats, one scalar decoder each: the reference every kernel is compared with.

use crate::DType;

/// Decodes `bytes`, whole blocks of `dtype`, into `out`.
///
/// # Errors
/// Returns [`BlockError`] if `dtype` holds no real numbers or the lengths do not match.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    let _ = (dtype, bytes, out);
    todo!()
}

/// Why blocks could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The type is no float and no quantized block.
    #[error("{0} holds no real numbers")]
    NotReal(DType),
    /// Byte and element counts contradict each other.
    #[error("{bytes} bytes of {dtype} do not hold {elements} elements")]
    Length {
        /// Element type.
        dtype: DType,
        /// Bytes given.
        bytes: usize,
        /// Elements wanted.
        elements: usize,
    },
}
