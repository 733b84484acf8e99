//! Element and block types of tensors.

/// How the elements of a tensor are stored. Block types follow GGUF's names, but for those of compressed-tensors, which splits in
/// several tensors what is one here: scales and codes lie together, so that every row can be read on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the field's own")]
#[expect(non_camel_case_types, reason = "GGUF writes Q4_0 and Q4_K")]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    Bool,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K,
    Q5_K,
    Q6_K,
    Q3_K,
    Q2_K,
    IQ4_NL,
    IQ4_XS,
    F8_E4M3,
    /// Four bits, a scale for 32 columns.
    W4_G32,
    /// Four bits, a scale for 128 columns.
    W4_G128,
    /// Four bits, a scale and a zero point for 32 columns.
    W4Z_G32,
    /// Four bits, a scale and a zero point for 128 columns.
    W4Z_G128,
    /// Eight bits, a scale for a row.
    W8_ROW,
    /// E4M3, a scale for a row.
    F8_ROW,
}

impl DType {
    /// Those of GGUF that store elements in quantized blocks.
    pub const QUANTIZED: [Self; 12] = [
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// Those of compressed-tensors.
    pub const COMPRESSED: [Self; 6] = [Self::W4_G32, Self::W4_G128, Self::W4Z_G32, Self::W4Z_G128, Self::W8_ROW, Self::F8_ROW];

    /// Whether it is one of compressed-tensors.
    pub const fn is_compressed(self) -> bool {
        matches!(self, Self::W4_G32 | Self::W4_G128 | Self::W4Z_G32 | Self::W4Z_G128 | Self::W8_ROW | Self::F8_ROW)
    }

    /// Whether all blocks of a row have the same scale.
    pub const fn is_scaled_by_row(self) -> bool {
        matches!(self, Self::W8_ROW | Self::F8_ROW)
    }

    /// Elements in one block; 1 for plain types.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4_NL => 32,
            Self::W4_G32 | Self::W4Z_G32 | Self::W8_ROW | Self::F8_ROW => 32,
            Self::W4_G128 | Self::W4Z_G128 => 128,
            Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::Q3_K | Self::Q2_K | Self::IQ4_XS => 256,
            _ => 1,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool | Self::F8_E4M3 => 1,
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::Q3_K => 110,
            Self::Q2_K => 84,
            Self::IQ4_XS => 136,
            Self::W4_G32 => 20,
            Self::W4_G128 => 68,
            Self::W4Z_G32 => 21,
            Self::W4Z_G128 => 69,
            Self::W8_ROW | Self::F8_ROW => 36,
        }
    }

    /// Whether elements are stored in quantized blocks.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `cols` elements; `None` if `cols` is no multiple of the block or the product overflows.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        cols.is_multiple_of(block).then(|| (cols / block).checked_mul(self.block_bytes() as u64))?
    }

    /// What weights can be written as.
    pub fn of_weights() -> impl Iterator<Item = Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().chain(Self::QUANTIZED).chain(Self::COMPRESSED)
    }

    /// The name people write: `BF16`, `Q4_K`.
    pub fn name(self) -> String {
        format!("{self:?}").to_uppercase()
    }
}

impl std::str::FromStr for DType {
    type Err = String;
    /// Types of weights, in upper or lower case; the error names them all.
    fn from_str(s: &str) -> Result<Self, String> {
        Self::of_weights().find(|d| d.name().eq_ignore_ascii_case(s)).ok_or_else(|| {
            let all: Vec<_> = Self::of_weights().map(Self::name).collect();
            format!("there is no type {s}; there are {}", all.join(", "))
        })
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.name())
    }
}
