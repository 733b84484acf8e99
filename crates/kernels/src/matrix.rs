//! Weight matrices, repacked once while loading into panels of rows.
//!
//! A panel is 16 rows, lane = row, and holds their raw blocks transposed: each of a block's 32-bit words and 16-bit fields
//! as 16 lanes, in the order in which kernels want them. So a panel is as large as its rows are on disk (but for Q6_K and
//! Q3_K, whose blocks are filled up to whole cache lines), the packing loses nothing, and it is the same on every
//! instruction set. Panels come in pairs; missing rows are zero blocks.

use crate::{large_pages, simd::LANES};
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
        let mut raw = vec![0; self.row_bytes()];
        for (block, packed) in raw.chunks_exact_mut(block_bytes).zip(panel.chunks_exact(panel_block_bytes(self.dtype))) {
            unpack_block(fields, packed, row % LANES, block);
        }
        raw
    }

    /// Bytes of a raw row.
    fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block_len() * self.dtype.block_bytes()
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

    /// The bytes of the panel that begins with row `row`, zeros if it was not there yet; those before it are there.
    fn panel_mut(&mut self, row: usize) -> &mut [u8] {
        let (begin, end) = (row / LANES * self.panel_bytes, (row / LANES + 1) * self.panel_bytes);
        self.grow(end);
        // SAFETY: a line is 64 initialized bytes without padding, any bytes are a valid line, and the borrow is exclusive.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), size_of_val(&*self.lines)) };
        &mut bytes[begin..end]
    }

    /// Adds zeros up to `bytes`, for which memory was reserved.
    fn grow(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(size_of::<Line>()).max(self.lines.len());
        self.lines.resize(lines, Line([0; 64]));
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
    /// Rows that are packed: whole panels.
    packed: usize,
    /// Rows that came and do not fill a panel yet.
    waiting: Vec<u8>,
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
        let panel_bytes = (cols / block).checked_mul(panel_block_bytes(dtype));
        let bytes = rows.checked_next_multiple_of(2 * LANES).and_then(|rows| panel_bytes?.checked_mul(rows / LANES));
        let (Some(panel_bytes), Some(bytes)) = (panel_bytes, bytes) else { return Err(MatrixError::Memory(usize::MAX)) };
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(size_of::<Line>())).map_err(|_| MatrixError::Memory(bytes))?;
        large_pages::advise(lines.spare_capacity_mut());
        Ok(Self { matrix: Matrix { dtype, rows, cols, panel_bytes, lines }, packed: 0, waiting: Vec::new() })
    }

    /// Packs the next whole rows.
    ///
    /// # Errors
    /// [`MatrixError::Length`] if the bytes are no whole rows, or more than are missing.
    pub fn push_rows(&mut self, bytes: &[u8]) -> Result<(), MatrixError> {
        let row_bytes = self.matrix.row_bytes();
        let panel_rows = row_bytes * LANES;
        let missing = (self.matrix.rows - self.packed) * row_bytes - self.waiting.len();
        if bytes.len() > missing || !bytes.len().is_multiple_of(row_bytes.max(1)) {
            return Err(self.length(bytes.len()));
        }
        let mut rest = bytes;
        if !self.waiting.is_empty() {
            let (more, after) = rest.split_at(rest.len().min(panel_rows - self.waiting.len()));
            self.waiting.extend_from_slice(more);
            rest = after;
            if self.waiting.len() == panel_rows {
                let rows = std::mem::take(&mut self.waiting);
                self.pack_panel(&rows);
            }
        }
        let mut panels = rest.chunks_exact(panel_rows.max(1));
        panels.by_ref().for_each(|rows| self.pack_panel(rows));
        self.waiting.extend_from_slice(panels.remainder());
        Ok(())
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// [`MatrixError::Length`] if some did not.
    pub fn finish(mut self) -> Result<Matrix, MatrixError> {
        let row_bytes = self.matrix.row_bytes();
        if self.packed * row_bytes + self.waiting.len() != self.matrix.rows * row_bytes {
            return Err(self.length(0));
        }
        if !self.waiting.is_empty() {
            let mut rows = std::mem::take(&mut self.waiting);
            rows.resize(row_bytes * LANES, 0);
            self.pack_panel(&rows);
        }
        self.matrix.grow(self.matrix.panel_count() * self.matrix.panel_bytes);
        Ok(self.matrix)
    }

    fn length(&self, more: usize) -> MatrixError {
        let row_bytes = self.matrix.row_bytes();
        let got = self.packed * row_bytes + self.waiting.len() + more;
        MatrixError::Length { got, want: self.matrix.rows * row_bytes }
    }

    /// Packs the raw rows of the next panel.
    fn pack_panel(&mut self, rows: &[u8]) {
        let (dtype, row_bytes) = (self.matrix.dtype, self.matrix.row_bytes());
        let panel = self.matrix.panel_mut(self.packed);
        let rows: [&[u8]; LANES] = std::array::from_fn(|lane| &rows[lane * row_bytes..][..row_bytes]);
        match dtype {
            // One field a block: the whole panel is one run of them.
            DType::F32 => transpose::<4>(rows, panel),
            DType::F16 | DType::BF16 => transpose::<2>(rows, panel),
            _ => pack_blocks(dtype, rows, panel),
        }
        self.packed += LANES;
    }
}

fn panel_count(rows: usize) -> usize {
    rows.div_ceil(2 * LANES) * 2
}

/// Bytes of a block of a panel. A block of 256 columns begins with a cache line: no word straddles two.
const fn panel_block_bytes(dtype: DType) -> usize {
    let bytes = dtype.block_bytes() * LANES;
    if dtype.block_len() == 256 { bytes.next_multiple_of(size_of::<Line>()) } else { bytes }
}

/// A run of equal fields in a raw block.
struct Field {
    /// Offset of the first.
    at: usize,
    /// Bytes of each.
    size: usize,
    count: usize,
    code: Code,
}

/// What little packing changes inside a field.
#[derive(Clone, Copy)]
enum Code {
    Same,
    /// Q8_0's codes become unsigned.
    Unsigned,
    /// Q5's high bits move to where one shift per word finds them: that of column 4v + j from bit 4v + j to bit 8j + v.
    HighBits,
}

/// Fields of a block in panel order; empty for types without a product. GGUF's own layouts, see ggml-common.h in llama.cpp.
fn fields(dtype: DType) -> &'static [Field] {
    use Code::{HighBits, Same, Unsigned};
    macro_rules! fields {
        ($($at:literal: $count:literal x $size:literal $code:ident),*) => {
            const { &[$(Field { at: $at, size: $size, count: $count, code: $code }),*] }
        };
    }
    match dtype {
        DType::F32 => fields![0: 1 x 4 Same],
        DType::F16 | DType::BF16 => fields![0: 1 x 2 Same],
        DType::Q8_0 => fields![2: 8 x 4 Unsigned, 0: 1 x 2 Same],
        DType::Q4_0 => fields![2: 4 x 4 Same, 0: 1 x 2 Same],
        DType::Q4_1 => fields![4: 4 x 4 Same, 0: 2 x 2 Same],
        DType::Q5_0 => fields![6: 4 x 4 Same, 2: 1 x 4 HighBits, 0: 1 x 2 Same],
        DType::Q5_1 => fields![8: 4 x 4 Same, 4: 1 x 4 HighBits, 0: 2 x 2 Same],
        DType::Q4_K => fields![4: 3 x 4 Same, 16: 32 x 4 Same, 0: 2 x 2 Same],
        DType::Q5_K => fields![4: 3 x 4 Same, 16: 8 x 4 Same, 48: 32 x 4 Same, 0: 2 x 2 Same],
        DType::IQ4_NL => fields![2: 4 x 4 Same, 0: 1 x 2 Same],
        // Each half of the columns by itself.
        DType::Q6_K => fields![
            192: 2 x 4 Same, 128: 8 x 4 Same, 0: 16 x 4 Same,
            200: 2 x 4 Same, 160: 8 x 4 Same, 64: 16 x 4 Same,
            208: 1 x 2 Same
        ],
        DType::Q3_K => fields![96: 3 x 4 Same, 0: 8 x 4 Same, 32: 16 x 4 Same, 108: 1 x 2 Same],
        DType::Q2_K => fields![0: 4 x 4 Same, 16: 16 x 4 Same, 80: 2 x 2 Same],
        DType::IQ4_XS => fields![4: 1 x 4 Same, 8: 32 x 4 Same, 0: 2 x 2 Same],
        _ => &[],
    }
}

/// Packs rows of blocks with several fields into their panel.
fn pack_blocks(dtype: DType, rows: [&[u8]; LANES], panel: &mut [u8]) {
    let (block_bytes, fields) = (dtype.block_bytes(), fields(dtype));
    for (i, mut packed) in panel.chunks_exact_mut(panel_block_bytes(dtype)).enumerate() {
        for field in fields {
            let bytes = field.count * field.size;
            let (run, rest) = packed.split_at_mut(bytes * LANES);
            let raw = rows.map(|row| &row[i * block_bytes + field.at..][..bytes]);
            match field.size {
                2 => transpose::<2>(raw, run),
                _ => transpose::<4>(raw, run),
            }
            field.code.pack(run);
            packed = rest;
        }
    }
}

/// From 16 runs of fields of `SIZE` bytes to one run of their 16 lanes.
fn transpose<const SIZE: usize>(rows: [&[u8]; LANES], packed: &mut [u8]) {
    let rows = rows.map(|row| row.as_chunks::<SIZE>().0);
    for (i, lanes) in packed.as_chunks_mut::<SIZE>().0.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        for (lane, row) in lanes.iter_mut().zip(rows) {
            *lane = row[i];
        }
    }
}

/// Takes one lane out of a panel block.
fn unpack_block(fields: &[Field], packed: &[u8], lane: usize, block: &mut [u8]) {
    let mut at = 0;
    for field in fields {
        let raw = &mut block[field.at..][..field.count * field.size];
        for raw in raw.chunks_exact_mut(field.size) {
            raw.copy_from_slice(&packed[at + lane * field.size..][..field.size]);
            at += LANES * field.size;
        }
        field.code.unpack(raw);
    }
}

impl Code {
    fn pack(self, run: &mut [u8]) {
        match self {
            Self::Same => {}
            Self::Unsigned => run.iter_mut().for_each(|code| *code ^= 0x80),
            Self::HighBits => each_word(run, |old| (0..32).fold(0, |new, bit| new | (old >> bit & 1) << moved(bit))),
        }
    }

    fn unpack(self, run: &mut [u8]) {
        match self {
            Self::Same => {}
            Self::Unsigned => self.pack(run),
            Self::HighBits => each_word(run, |old| (0..32).fold(0, |new, bit| new | (old >> moved(bit) & 1) << bit)),
        }
    }
}

/// Where packing moves a high bit.
fn moved(bit: u32) -> u32 {
    8 * (bit % 4) + bit / 4
}

fn each_word(run: &mut [u8], change: impl Fn(u32) -> u32) {
    for word in run.as_chunks_mut::<4>().0 {
        *word = change(u32::from_le_bytes(*word)).to_le_bytes();
    }
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
