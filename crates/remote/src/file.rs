//! An object, read by range. What is read in small steps is fetched in growing ones.

use crate::{
    address::Store,
    error::{Failure, RemoteError},
    runtime,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use std::{
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Reads of this length and more are passed on as they are.
const LARGE: usize = 1 << 20;
/// Least that is fetched.
const LEAST: u64 = 64 << 10;
/// Most that is fetched ahead, for each of `WINDOWS` places that are read on from.
const AHEAD: u64 = 8 << 20;
const WINDOWS: usize = 3;
/// A request asks for this much at most; `AT_ONCE` of them run side by side.
const REQUEST: u64 = 2 << 20;
const AT_ONCE: usize = 4;

/// An object as it was when it was opened: one that was replaced since is refused.
pub(crate) struct RemoteFile {
    store: Store,
    meta: ObjectMeta,
    shown: String,
    /// Last used last; 24 MiB at most.
    windows: Mutex<Vec<Window>>,
}

/// Bytes that were fetched.
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl RemoteFile {
    /// Asks for the object's length and version.
    pub(crate) fn open(store: &Store, path: &object_store::path::Path, shown: String) -> io::Result<Self> {
        let meta = runtime()?.block_on(store.objects.head(path)).map_err(|e| RemoteError::of(&shown, &e).into_io())?;
        Ok(Self { store: store.clone(), meta, shown, windows: Mutex::default() })
    }

    fn fetch(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let ends = at + out.len() as u64;
        let ranges: Vec<Range<u64>> = (at..ends).step_by(REQUEST as usize).map(|from| from..ends.min(from + REQUEST)).collect();
        let fetched = async {
            let mut answers = stream::iter(ranges).map(|range| self.request(range)).buffered(AT_ONCE);
            let mut rest = out;
            while let Some(bytes) = answers.try_next().await? {
                let (part, left) = rest.split_at_mut(bytes.len().min(rest.len()));
                part.copy_from_slice(&bytes[..part.len()]);
                rest = left;
            }
            Ok(())
        };
        runtime()?.block_on(fetched).map_err(RemoteError::into_io)
    }

    /// Exactly the bytes of `range`, of exactly the object that was opened.
    async fn request(&self, range: Range<u64>) -> Result<Bytes, RemoteError> {
        let failed = |e: object_store::Error| RemoteError::of(&self.shown, &e);
        // A weak tag matches nothing; it is compared below all the same.
        let tag = self.meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
        let options = GetOptions {
            // The whole of a small file can be had from servers that know no ranges, too.
            range: (range != (0..self.meta.size)).then(|| GetRange::Bounded(range.clone())),
            if_match: tag,
            version: self.meta.version.clone(),
            ..Default::default()
        };
        let answer = self.store.objects.get_opts(&self.meta.location, options).await.map_err(failed)?;
        if answer.meta.size != self.meta.size || answer.meta.e_tag != self.meta.e_tag {
            return Err(Failure::Changed.at(&self.shown));
        }
        let bytes = answer.bytes().await.map_err(failed)?;
        let (found, wanted) = (bytes.len() as u64, range.end - range.start);
        match found == wanted {
            true => Ok(bytes),
            false => {
                let reason = format!("the server sent {found} bytes where {wanted} were asked for");
                Err(Failure::Server(reason).at(&self.shown))
            }
        }
    }
}

impl coffer_seal::place::PlacedFile for RemoteFile {
    fn len(&self) -> u64 {
        self.meta.size
    }

    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let len = out.len() as u64;
        if at.checked_add(len).is_none_or(|end| end > self.meta.size) {
            let what = format!("{}: {len} bytes at {at} are not in its {}", self.shown, self.meta.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        if out.len() >= LARGE {
            return self.fetch(at, out);
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = match windows.iter().position(|w| w.holds(at, len)) {
            Some(held) => windows.remove(held),
            None => {
                // What is read on from a window has shown that more will be wanted.
                let before = windows.iter().position(|w| w.at <= at && at <= w.end());
                let grown = before.map_or(LEAST, |place| (windows.remove(place).bytes.len() as u64 * 2).min(AHEAD));
                let wanted = grown.max(len).min(self.meta.size - at);
                let mut bytes = vec![0; wanted as usize];
                self.fetch(at, &mut bytes)?;
                Window { at, bytes }
            }
        };
        let from = (at - window.at) as usize;
        out.copy_from_slice(&window.bytes[from..from + out.len()]);
        if windows.len() == WINDOWS {
            windows.remove(0);
        }
        windows.push(window);
        Ok(())
    }
}

impl Window {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    fn holds(&self, at: u64, len: u64) -> bool {
        self.at <= at && at + len <= self.end()
    }
}
