//! The stream `data`: any of its segments, in any order.

use super::{
    BundleError,
    layout::{BundleId, ContentKey, DATA, aad},
    manifest::Manifest,
    recent::Recent,
};
use crate::{
    floe::{Cipher, HEADER_LEN, Layout, OVERHEAD},
    place::{Place, PlacedFile},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The stream `data`, its length known from the manifest.
pub(super) struct Data {
    path: PathBuf,
    file: Box<dyn PlacedFile>,
    pub(super) cipher: Cipher,
    layout: Layout,
    recent: Recent,
    /// Buffers for ciphertext, of readers that have ended: as many as there were at once. They are long, and wiped when they are freed.
    spare: Mutex<Vec<Vec<u8>>>,
    /// Segments decrypted so far.
    #[cfg(test)]
    pub(super) opened: std::sync::atomic::AtomicU64,
}

impl Data {
    pub(super) fn open(
        place: &dyn Place,
        path: &Path,
        key: &ContentKey,
        id: &BundleId,
        manifest: &Manifest,
    ) -> Result<Self, BundleError> {
        let name = path.join(DATA);
        let file = place.open(DATA).map_err(BundleError::io(&name))?;
        let found = file.len();
        let cut = |expected: u64| BundleError::Truncated {
            path: path.display().to_string(),
            part: format!("{DATA} (it has {found} of {expected} bytes)"),
        };
        if found < HEADER_LEN as u64 {
            return Err(cut(HEADER_LEN as u64));
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(0, &mut header).map_err(BundleError::io(&name))?;
        let cipher = Cipher::open(&key.derive("stream"), &aad(id, DATA), &header).map_err(BundleError::floe(path, DATA))?;
        if cipher.iv() != manifest.data.iv {
            return Err(BundleError::tampered(path, "data, header,"));
        }
        let layout = Layout::new(manifest.data.length, cipher.segment_len())
            .ok_or_else(|| BundleError::invalid(path, format!("the manifest: {} bytes are too long", manifest.data.length)))?;
        let recent = Recent::new(cipher.plain_len());
        match layout.stream_len() {
            expected if found < expected => Err(cut(expected)),
            expected if found > expected => {
                Err(BundleError::tampered(path, format!("{DATA} ({} bytes too long)", found - expected)))
            }
            _ => Ok(Self {
                path: path.to_owned(),
                file,
                cipher,
                layout,
                recent,
                spare: Mutex::default(),
                #[cfg(test)]
                opened: Default::default(),
            }),
        }
    }

    /// The bundle.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> u64 {
        self.layout.segments()
    }

    /// Bytes of plaintext in all, padding included.
    pub(super) fn content_len(&self) -> u64 {
        self.layout.plain_len()
    }

    /// Bytes of plaintext in a segment that is not the last.
    pub(super) fn plain_len(&self) -> usize {
        self.cipher.plain_len()
    }

    /// The plaintext from byte `at` on, as much as `out` holds, which must be there.
    pub(super) fn read_plain(&self, at: u64, out: &mut [u8]) -> Result<(), BundleError> {
        let spares = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sealed = spares().pop().unwrap_or_default();
        self.read_plain_by(&mut sealed, at, out)?;
        spares().push(sealed);
        Ok(())
    }

    /// `read_plain` with a buffer for ciphertext.
    fn read_plain_by(&self, sealed: &mut Vec<u8>, mut at: u64, out: &mut [u8]) -> Result<(), BundleError> {
        let mut rest = out;
        while !rest.is_empty() {
            let (position, offset) = self.layout.locate(at);
            let (range, last) = self.layout.segment(position);
            let held = (range.end - range.start) as usize - OVERHEAD;
            let (part, left) = rest.split_at_mut(rest.len().min(held - offset));
            let open = |plain: &mut [u8]| {
                self.read(range, sealed)?;
                self.decrypt(position, last, sealed, plain)
            };
            if part.len() == held {
                open(part)?;
            } else {
                let segment = self.recent.get(position, |plain| {
                    plain.resize(held, 0);
                    open(plain)
                })?;
                part.copy_from_slice(&segment.plain[offset..offset + part.len()]);
            }
            at += part.len() as u64;
            rest = left;
        }
        Ok(())
    }

    /// Decrypts the segments at `positions`, which are read at once. `plain` gets their length.
    pub(super) fn open_segments(
        &self,
        positions: Range<u64>,
        sealed: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<(), BundleError> {
        let Some(final_position) = positions.end.checked_sub(1) else { return Ok(()) };
        self.read(self.layout.segment(positions.start).0.start..self.layout.segment(final_position).0.end, sealed)?;
        plain.resize(sealed.len() - (positions.end - positions.start) as usize * OVERHEAD, 0);
        let (mut rest, mut out) = (&sealed[..], &mut plain[..]);
        for position in positions {
            let (range, last) = self.layout.segment(position);
            let (segment, sealed_rest) = rest.split_at((range.end - range.start) as usize);
            let (opened, out_rest) = out.split_at_mut(segment.len() - OVERHEAD);
            self.decrypt(position, last, segment, opened)?;
            (rest, out) = (sealed_rest, out_rest);
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>, sealed: &mut Vec<u8>) -> Result<(), BundleError> {
        sealed.resize((range.end - range.start) as usize, 0);
        self.file.read_exact_at(range.start, sealed).map_err(BundleError::io(&self.path.join(DATA)))
    }

    fn decrypt(&self, position: u64, last: bool, sealed: &[u8], out: &mut [u8]) -> Result<(), BundleError> {
        #[cfg(test)]
        self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.cipher.open_segment(position, last, sealed, out).map_err(BundleError::floe(&self.path, DATA))
    }
}
