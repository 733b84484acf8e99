//! Segments decrypted a short while ago: neighbouring reads of parts of one decrypt it once, whichever thread and file they come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Bytes that are kept, about; of our own segments, the two at the ends of a read for each of sixteen readers.
const KEPT: usize = 8 << 20;
/// Segments that are kept at least, however long they are.
const LEAST: usize = 2;

/// A segment's plaintext.
#[derive(Default)]
pub(super) struct Segment {
    position: u64,
    pub(super) plain: Zeroizing<Vec<u8>>,
}

/// The segments last asked for, the newest at the end.
pub(super) struct Recent {
    kept: Mutex<Vec<Arc<Segment>>>,
    most: usize,
}

impl Recent {
    /// For segments with `len` bytes of plaintext.
    pub(super) fn new(len: usize) -> Self {
        Self { kept: Mutex::default(), most: (KEPT / len.max(1)).clamp(LEAST, KEPT / 4096) }
    }

    /// The segment at `position`, by `decrypt` if it is not here. Two who ask for it at once may both decrypt it; nobody waits.
    pub(super) fn get<E>(&self, position: u64, decrypt: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Arc<Segment>, E> {
        let mut kept = self.lock();
        if let Some(at) = kept.iter().position(|segment| segment.position == position) {
            kept[at..].rotate_left(1);
            return Ok(kept[kept.len() - 1].clone());
        }
        let oldest = if kept.len() >= self.most { Arc::into_inner(kept.remove(0)) } else { None };
        drop(kept);
        let mut segment = oldest.unwrap_or_default();
        decrypt(&mut segment.plain)?;
        segment.position = position;
        let segment = Arc::new(segment);
        let mut kept = self.lock();
        if kept.len() >= self.most {
            kept.remove(0);
        }
        kept.push(segment.clone());
        Ok(segment)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
