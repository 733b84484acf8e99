//! The data stream from its start: read and decrypted by two threads, handed on in order by the caller's.

use super::{BundleError, data::Data};
use std::{sync::mpsc, thread};
use zeroize::Zeroizing;

/// Plaintext that a thread decrypts at a time, in bytes; at least one segment.
const PIECE: usize = 2 << 20;
const THREADS: u64 = 2;
/// Pieces that a thread can have done before the first is taken.
const AHEAD: usize = 2;

type Piece = Zeroizing<Vec<u8>>;

/// Gives the plaintext of the first `segments` segments to `each`, in order. Of the plaintext, `THREADS` × `AHEAD` pieces
/// exist at a time, whatever the stream's length; they are zeroized.
pub(super) fn in_order(
    data: &Data,
    segments: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let step = (PIECE / data.plain_len().max(1)).max(1) as u64;
    let pieces = segments.div_ceil(step);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for worker in 0..THREADS.min(pieces) {
            let (full, done) = mpsc::sync_channel(AHEAD);
            let (back, free) = mpsc::channel();
            let capacity = segments.min(step) as usize * data.plain_len();
            for _ in 0..AHEAD {
                // The receiver is still here.
                let _ = back.send(Piece::new(Vec::with_capacity(capacity)));
            }
            let work = move || {
                let mut sealed = Vec::new();
                let mine = (worker..pieces).step_by(THREADS as usize);
                for (piece, mut plain) in mine.zip(free) {
                    let positions = piece * step..segments.min((piece + 1) * step);
                    let opened = data.open_segments(positions, &mut sealed, &mut plain).map(|()| plain);
                    let failed = opened.is_err();
                    if full.send(opened).is_err() || failed {
                        return; // the other end stopped, or there is nothing to go on with
                    }
                }
            };
            thread::Builder::new().name("open".into()).spawn_scoped(scope, work).map_err(BundleError::io(data.path()))?;
            workers.push((done, back));
        }
        for (_, (done, back)) in (0..pieces).zip(workers.iter().cycle()) {
            // A worker that is gone too early has panicked; leaving the scope passes that on.
            let Ok(opened) = done.recv() else { break };
            let plain = opened?;
            each(&plain)?;
            // A worker that has no more to do takes nothing back.
            let _ = back.send(plain);
        }
        Ok(())
    })
}
