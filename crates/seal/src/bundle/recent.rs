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

/// The segments last asked for.
pub(super) struct Recent {
    segments: Mutex<Segments>,
    most: usize,
}

#[derive(Default)]
struct Segments {
    /// The newest at the end.
    kept: Vec<Arc<Segment>>,
    /// Those that had to go, for the next: as many as threads that decrypted at once. To clear one costs as much as to decrypt into it.
    spare: Vec<Segment>,
}

impl Recent {
    /// For segments with `len` bytes of plaintext.
    pub(super) fn new(len: usize) -> Self {
        Self { segments: Mutex::default(), most: (KEPT / len.max(1)).clamp(LEAST, KEPT / 4096) }
    }

    /// The segment at `position`, by `decrypt` if it is not here. Two who ask for it at once may both decrypt it; nobody waits.
    pub(super) fn get<E>(&self, position: u64, decrypt: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Arc<Segment>, E> {
        let mut segments = self.lock();
        let kept = &mut segments.kept;
        if let Some(at) = kept.iter().position(|segment| segment.position == position) {
            kept[at..].rotate_left(1);
            return Ok(kept[kept.len() - 1].clone());
        }
        let mut segment = segments.spare.pop().unwrap_or_default();
        drop(segments);
        decrypt(&mut segment.plain)?;
        segment.position = position;
        let segment = Arc::new(segment);
        let mut segments = self.lock();
        if segments.kept.len() >= self.most {
            let oldest = Arc::into_inner(segments.kept.remove(0));
            segments.spare.extend(oldest);
        }
        segments.kept.push(segment.clone());
        Ok(segment)
    }

    fn lock(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
