//! Segments decrypted a short while ago: neighbouring reads of parts of one decrypt it once, whichever thread and file they come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Segments that are kept: two, those at the ends of a read, for each of four readers.
const KEPT: usize = 8;

/// A segment's plaintext.
#[derive(Default)]
pub(super) struct Segment {
    position: u64,
    pub(super) plain: Zeroizing<Vec<u8>>,
}

/// The segments last asked for, the newest at the end.
#[derive(Default)]
pub(super) struct Recent(Mutex<Vec<Arc<Segment>>>);

impl Recent {
    /// The segment at `position`, by `decrypt` if it is not here. Two who ask for it at once may both decrypt it; nobody waits.
    pub(super) fn get<E>(&self, position: u64, decrypt: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Arc<Segment>, E> {
        let mut kept = self.lock();
        if let Some(at) = kept.iter().position(|segment| segment.position == position) {
            kept[at..].rotate_left(1);
            return Ok(kept[kept.len() - 1].clone());
        }
        let oldest = if kept.len() == KEPT { Arc::into_inner(kept.remove(0)) } else { None };
        drop(kept);
        let mut segment = oldest.unwrap_or_default();
        decrypt(&mut segment.plain)?;
        segment.position = position;
        let segment = Arc::new(segment);
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(segment.clone());
        Ok(segment)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
