//! Weight matrices, repacked once while loading into panels of rows.

use coffer_checkpoint::DType;

/// A packed weight matrix of `rows × cols`; the packing is the same on every ISA.
pub struct Matrix;

impl Matrix {
    /// Output rows.
    pub fn rows(&self) -> usize {
        todo!()
    }
    /// Input columns.
    pub fn cols(&self) -> usize {
        todo!()
    }
    /// The type that it was packed from.
    pub fn dtype(&self) -> DType {
        todo!()
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        todo!()
    }
    /// Decodes one row into `out` (`cols` floats), equal to `blocks::decode` of its bytes: embeddings are looked up this way.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        let _ = (row, out);
        todo!()
    }
}

/// Takes the raw rows of a tensor in order and packs them.
pub struct MatrixBuilder;

impl MatrixBuilder {
    /// Starts a matrix; memory is reserved here.
    pub fn new(dtype: DType, rows: usize, cols: usize) -> Result<Self, MatrixError> {
        let _ = (dtype, rows, cols);
        todo!()
    }
    /// Packs the next whole rows.
    pub fn push_rows(&mut self, bytes: &[u8]) -> Result<(), MatrixError> {
        let _ = bytes;
        todo!()
    }
    /// Checks that all rows came.
    pub fn finish(self) -> Result<Matrix, MatrixError> {
        todo!()
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
