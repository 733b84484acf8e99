//! Tensors at known positions of one file.

use crate::{ReadAt, ReadError, TensorId, TensorIndex};
use std::{ops::Range, sync::Arc};

/// A file, its tensors, and where each one's bytes begin. The parser that builds it has checked that every tensor fills
/// whole blocks and lies inside the file.
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn ReadAt>,
    pub(crate) index: TensorIndex,
    pub(crate) starts: Vec<u64>,
}

impl Placed {
    pub(crate) fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let Some(&start) = self.starts.get(t.0) else {
            return Err(self.refuse(format!("there is no tensor {}, only {}", t.0, self.starts.len())));
        };
        let info = self.index.get(t);
        if rows.start > rows.end || rows.end > info.rows() {
            let reason = format!("tensor {}: rows {}..{} of {}", info.name, rows.start, rows.end, info.rows());
            return Err(self.refuse(reason));
        }
        let row_bytes = info.row_bytes().unwrap_or(0);
        // Both products are at most the tensor's size, which fits the file.
        let wanted = (rows.end - rows.start) * row_bytes;
        if wanted != out.len() as u64 {
            let reason = format!("tensor {}: rows {}..{} are {wanted} bytes, not {}", info.name, rows.start, rows.end, out.len());
            return Err(self.refuse(reason));
        }
        if wanted == 0 {
            return Ok(());
        }
        self.file.read_exact_at(start + rows.start * row_bytes, out)
    }

    fn refuse(&self, reason: String) -> ReadError {
        ReadError::Refused { name: self.name.clone(), reason }
    }
}
