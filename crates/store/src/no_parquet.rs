//! Parquet where this build has none: every file is refused, and there are no rows.

use coffer_checkpoint::ReadAt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Nothing to keep.
#[derive(Default)]
pub(crate) struct PageCache {}

/// The rows of a file that cannot be opened.
pub(crate) enum Rows {}

impl Rows {
    /// Refuses the file.
    pub(crate) fn open(_: usize, _: Arc<dyn ReadAt>, _: Arc<PageCache>) -> Result<Self, String> {
        Err("this build reads no Parquet: cargo install --path cli --features parquet".into())
    }

    pub(crate) fn count(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn record(&self, _: u64) -> Result<Zeroizing<Vec<u8>>, String> {
        match *self {}
    }
}
