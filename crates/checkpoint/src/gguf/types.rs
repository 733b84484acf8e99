//! Numbers that GGUF gives to element types and to metadata values.

use crate::DType;

/// ggml's number of a type and the type; ggml has no booleans and no unsigned bytes.
const SUPPORTED: [(u32, DType); 20] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2_K),
    (11, DType::Q3_K),
    (12, DType::Q4_K),
    (13, DType::Q5_K),
    (14, DType::Q6_K),
    (20, DType::IQ4_NL),
    (23, DType::IQ4_XS),
    (24, DType::I8),
    (25, DType::I16),
    (26, DType::I32),
    (27, DType::I64),
    (28, DType::F64),
    (30, DType::BF16),
];

/// Types of `enum ggml_type` that are known by name only.
const UNSUPPORTED: [(u32, &str); 14] = [
    (4, "Q4_2, removed"),
    (5, "Q4_3, removed"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

pub(super) fn dtype_of(number: u32) -> Result<DType, &'static str> {
    if let Some(&(_, dtype)) = SUPPORTED.iter().find(|(n, _)| *n == number) {
        return Ok(dtype);
    }
    Err(UNSUPPORTED.iter().find(|(n, _)| *n == number).map_or("unknown", |&(_, name)| name))
}

pub(super) fn number_of(dtype: DType) -> Option<u32> {
    SUPPORTED.iter().find(|(_, d)| *d == dtype).map(|&(n, _)| n)
}

/// Metadata value types, numbered as in `enum gguf_type`.
pub(super) mod value {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}
