//! Weight matrices, repacked once while loading into panels of rows.
//!
//! A panel is 16 rows, lane = row, and holds their raw blocks transposed: for each block its 32-bit words in order, each
//! as 16 lanes, then its 16-bit fields, each as 16 lanes. So a panel is as large as its rows are on disk, the packing
//! loses nothing, and it is the same on every instruction set. Panels come in pairs; missing rows are zero blocks.

use crate::simd::LANES;
use coffer_checkpoint::{DType, blocks};

/// A packed weight matrix of `rows × cols`; the packing is the same on every ISA.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    lines: Vec<Line>,
}

/// A cache line: panels start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Matrix {
    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type that it was packed from.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Decodes one row into `out` (`cols` floats), equal to `blocks::decode` of its bytes: embeddings are looked up this way.
    ///
    /// # Panics
    /// If `row` or the length of `out` is out of range.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} into {} floats of {:?}", out.len(), self);
        blocks::decode(self.dtype, &self.row(row), out).expect("every type that is packed is decoded");
    }

    /// The raw bytes of a row.
    fn row(&self, row: usize) -> Vec<u8> {
        let (block_bytes, fields) = (self.dtype.block_bytes(), fields(self.dtype));
        let panel = &self.panels()[row / LANES * self.panel_bytes..][..self.panel_bytes];
        let mut raw = vec![0; self.panel_bytes / LANES];
        for (block, packed) in raw.chunks_exact_mut(block_bytes).zip(panel.chunks_exact(block_bytes * LANES)) {
            gather(fields, packed, row % LANES, block);
            recode(self.dtype, block, Direction::Unpack);
        }
        raw
    }

    /// Panels, an even number.
    pub(crate) fn panel_count(&self) -> usize {
        panel_count(self.rows)
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// All panels, one after the other.
    pub(crate) fn panels(&self) -> &[u8] {
        // SAFETY: a line is 64 initialized bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.panel_count() * self.panel_bytes) }
    }

    fn panels_mut(&mut self) -> &mut [u8] {
        let bytes = self.panel_count() * self.panel_bytes;
        // SAFETY: a line is 64 initialized bytes without padding, any bytes are a valid line, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), bytes) }
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} matrix {} × {}", self.dtype, self.rows, self.cols)
    }
}

/// Takes the raw rows of a tensor in order and packs them.
#[derive(Debug)]
pub struct MatrixBuilder {
    matrix: Matrix,
    filled: usize,
}

impl MatrixBuilder {
    /// Starts a matrix; memory is reserved here.
    ///
    /// # Errors
    /// [`MatrixError::Unsupported`], [`MatrixError::PartialBlock`] or [`MatrixError::Memory`].
    pub fn new(dtype: DType, rows: usize, cols: usize) -> Result<Self, MatrixError> {
        if fields(dtype).is_empty() {
            return Err(MatrixError::Unsupported(dtype));
        }
        let block = dtype.block_len();
        if !cols.is_multiple_of(block) {
            return Err(MatrixError::PartialBlock { dtype, cols, block });
        }
        let panel_bytes = (cols / block).checked_mul(dtype.block_bytes() * LANES);
        let bytes = rows.checked_next_multiple_of(2 * LANES).and_then(|rows| panel_bytes?.checked_mul(rows / LANES));
        let (Some(panel_bytes), Some(bytes)) = (panel_bytes, bytes) else { return Err(MatrixError::Memory(usize::MAX)) };
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(size_of::<Line>())).map_err(|_| MatrixError::Memory(bytes))?;
        lines.resize(bytes.div_ceil(size_of::<Line>()), Line([0; 64]));
        Ok(Self { matrix: Matrix { dtype, rows, cols, panel_bytes, lines }, filled: 0 })
    }

    /// Packs the next whole rows.
    ///
    /// # Errors
    /// [`MatrixError::Length`] if the bytes are no whole rows, or more than are missing.
    pub fn push_rows(&mut self, bytes: &[u8]) -> Result<(), MatrixError> {
        let row_bytes = self.matrix.panel_bytes / LANES;
        let missing = (self.matrix.rows - self.filled) * row_bytes;
        if bytes.len() > missing || !bytes.len().is_multiple_of(row_bytes.max(1)) {
            return Err(MatrixError::Length { got: self.filled * row_bytes + bytes.len(), want: self.matrix.rows * row_bytes });
        }
        for row in bytes.chunks_exact(row_bytes.max(1)) {
            self.pack_row(row);
        }
        Ok(())
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// [`MatrixError::Length`] if some did not.
    pub fn finish(self) -> Result<Matrix, MatrixError> {
        let row_bytes = self.matrix.panel_bytes / LANES;
        match self.filled * row_bytes == self.matrix.rows * row_bytes {
            true => Ok(self.matrix),
            false => Err(MatrixError::Length { got: self.filled * row_bytes, want: self.matrix.rows * row_bytes }),
        }
    }

    fn pack_row(&mut self, row: &[u8]) {
        let Matrix { dtype, panel_bytes, .. } = self.matrix;
        let (block_bytes, fields) = (dtype.block_bytes(), fields(dtype));
        let (panel, lane) = (self.filled / LANES * panel_bytes, self.filled % LANES);
        let panel = &mut self.matrix.panels_mut()[panel..][..panel_bytes];
        let mut block = [0; 256];
        let block = &mut block[..block_bytes];
        for (raw, packed) in row.chunks_exact(block_bytes).zip(panel.chunks_exact_mut(block_bytes * LANES)) {
            block.copy_from_slice(raw);
            recode(dtype, block, Direction::Pack);
            scatter(fields, block, lane, packed);
        }
        self.filled += 1;
    }
}

fn panel_count(rows: usize) -> usize {
    rows.div_ceil(2 * LANES) * 2
}

/// A run of equal fields in a raw block.
struct Field {
    /// Offset of the first.
    at: usize,
    /// Bytes of each.
    size: usize,
    count: usize,
}

/// Fields of a block in panel order; empty for types without a product. GGUF's own layouts, see ggml-common.h in llama.cpp.
fn fields(dtype: DType) -> &'static [Field] {
    macro_rules! fields {
        ($($at:literal: $count:literal x $size:literal),*) => { const { &[$(Field { at: $at, size: $size, count: $count }),*] } };
    }
    match dtype {
        DType::F32 => fields![0: 1 x 4],
        DType::F16 | DType::BF16 => fields![0: 1 x 2],
        DType::Q8_0 => fields![2: 8 x 4, 0: 1 x 2],
        DType::Q4_0 => fields![2: 4 x 4, 0: 1 x 2],
        DType::Q4_1 => fields![4: 4 x 4, 0: 2 x 2],
        DType::Q5_0 => fields![6: 4 x 4, 2: 1 x 4, 0: 1 x 2],
        DType::Q5_1 => fields![8: 4 x 4, 4: 1 x 4, 0: 2 x 2],
        DType::Q4_K => fields![16: 32 x 4, 4: 3 x 4, 0: 2 x 2],
        DType::Q5_K => fields![48: 32 x 4, 16: 8 x 4, 4: 3 x 4, 0: 2 x 2],
        DType::Q6_K => fields![0: 32 x 4, 128: 16 x 4, 192: 4 x 4, 208: 1 x 2],
        _ => &[],
    }
}

/// Copies the fields of one raw block into its lane of a panel block.
fn scatter(fields: &[Field], block: &[u8], lane: usize, packed: &mut [u8]) {
    let mut at = 0;
    for field in fields {
        for raw in block[field.at..][..field.count * field.size].chunks_exact(field.size) {
            packed[at + lane * field.size..][..field.size].copy_from_slice(raw);
            at += LANES * field.size;
        }
    }
}

/// The inverse of [`scatter`].
fn gather(fields: &[Field], packed: &[u8], lane: usize, block: &mut [u8]) {
    let mut at = 0;
    for field in fields {
        for raw in block[field.at..][..field.count * field.size].chunks_exact_mut(field.size) {
            raw.copy_from_slice(&packed[at + lane * field.size..][..field.size]);
            at += LANES * field.size;
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Pack,
    Unpack,
}

/// What little changes inside a block: Q8_0's codes become unsigned, and Q5's high bits move to where one shift per word
/// finds them: that of column 4v + j from bit 4v + j to bit 8j + v.
fn recode(dtype: DType, block: &mut [u8], direction: Direction) {
    let high_at = match dtype {
        DType::Q8_0 => return block[2..].iter_mut().for_each(|code| *code ^= 0x80),
        DType::Q5_0 => 2,
        DType::Q5_1 => 4,
        _ => return,
    };
    let high = &mut block[high_at..high_at + 4];
    let old = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let new = (0..32).fold(0, |new, bit| {
        let moved = 8 * (bit % 4) + bit / 4;
        let (from, to) = if direction == Direction::Pack { (bit, moved) } else { (moved, bit) };
        new | (old >> from & 1) << to
    });
    high.copy_from_slice(&new.to_le_bytes());
}

/// Why a matrix could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// No product exists for this type.
    #[error("no matrix product for {0}")]
    Unsupported(DType),
    /// The columns do not fill whole blocks.
    #[error("{cols} columns are no multiple of the {block} of a {dtype} block")]
    PartialBlock {
        /// Type.
        dtype: DType,
        /// Columns.
        cols: usize,
        /// Columns of one block.
        block: usize,
    },
    /// Rows are missing or left over.
    #[error("{got} bytes of rows where {want} were declared")]
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes that were declared.
        want: usize,
    },
    /// The matrix does not fit in memory.
    #[error("{0} bytes cannot be allocated")]
    Memory(usize),
}
