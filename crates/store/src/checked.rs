//! A file that is held against what it was when it was verified, at every read.

use crate::StoreError;
use coffer_checkpoint::{ReadAt, ReadError};
use coffer_seal::recognize::{Place, Recognizer, Tag};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Bytes that have one tag: little to read when a few are wanted, 16 bytes of memory for each 256 KiB of the model.
const BLOCK: usize = 256 << 10;

/// What is kept of a file that was read once: its length, and a tag for each block.
pub(crate) struct Tags {
    recognizer: Arc<Recognizer>,
    file: u32,
    len: u64,
    tags: Vec<Tag>,
}

impl Tags {
    /// Of an empty file; `file` is its number under this recognizer.
    pub(crate) fn new(recognizer: Arc<Recognizer>, file: u32) -> Self {
        Self { recognizer, file, len: 0, tags: Vec::new() }
    }

    /// Adds the next bytes; all pieces but the last are whole blocks.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        for block in bytes.chunks(BLOCK) {
            let place = Place { file: self.file, block: self.tags.len() as u64 };
            self.tags.push(self.recognizer.tag(place, block)?);
            self.len += block.len() as u64;
        }
        Ok(())
    }

    fn knows(&self, block: u64, bytes: &[u8]) -> bool {
        let place = Place { file: self.file, block };
        let tag = usize::try_from(block).ok().and_then(|at| self.tags.get(at));
        tag.is_some_and(|tag| self.recognizer.knows(place, bytes, tag).unwrap_or(false))
    }
}

/// A file and its tags.
pub(crate) struct Checked {
    file: Arc<dyn ReadAt>,
    name: String,
    tags: Arc<Tags>,
    last: Mutex<Last>,
}

/// The block last read in part: small reads in sequence read it once.
#[derive(Default)]
struct Last {
    block: Option<u64>,
    bytes: Zeroizing<Vec<u8>>,
}

impl Checked {
    /// `name` is used in errors.
    pub(crate) fn new(file: Arc<dyn ReadAt>, name: String, tags: Arc<Tags>) -> Self {
        Self { file, name, tags, last: Mutex::default() }
    }

    fn read_block(&self, block: u64, out: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(block * BLOCK as u64, out)?;
        match self.tags.knows(block, out) {
            true => Ok(()),
            false => {
                out.fill(0);
                let reason = "changed since its signature was verified; nothing of it is used".to_owned();
                Err(ReadError::Refused { name: self.name.clone(), reason })
            }
        }
    }

    fn read_part(&self, block: u64, held: usize, skip: usize, out: &mut [u8]) -> Result<(), ReadError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.block != Some(block) {
            last.block = None;
            last.bytes.resize(held, 0);
            self.read_block(block, &mut last.bytes)?;
            last.block = Some(block);
        }
        out.copy_from_slice(&last.bytes[skip..skip + out.len()]);
        Ok(())
    }
}

impl ReadAt for Checked {
    fn len(&self) -> u64 {
        self.tags.len
    }

    fn read_exact_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let (wanted, len) = (out.len() as u64, self.tags.len);
        if at.checked_add(wanted).is_none_or(|end| end > len) {
            return Err(ReadError::OutOfRange { name: self.name.clone(), at, wanted, len });
        }
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            let (block, skip) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let held = (len - block * BLOCK as u64).min(BLOCK as u64) as usize;
            let (part, left) = rest.split_at_mut(rest.len().min(held - skip));
            match part.len() == held {
                true => self.read_block(block, part)?,
                false => self.read_part(block, held, skip, part)?,
            }
            at += part.len() as u64;
            rest = left;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write};

    #[test]
    fn reads_are_held_against_what_was_verified() {
        let bytes: Vec<u8> = (0..2 * BLOCK + 777).map(|i| (i * 31 / 7) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let mut tags = Tags::new(Arc::new(Recognizer::new().unwrap()), 3);
        bytes.chunks(BLOCK).for_each(|chunk| tags.add(chunk).unwrap());
        let tags = Arc::new(tags);
        let open = || {
            let file: Arc<dyn ReadAt> = Arc::new(coffer_checkpoint::FileAt::open(file.path()).unwrap());
            Checked::new(file, "file".into(), tags.clone())
        };
        let read = |file: &Checked, at: usize, len: usize| {
            let mut out = vec![0; len];
            file.read_exact_at(at as u64, &mut out).map(|()| out)
        };
        let before = open();
        for (at, len) in [(0, bytes.len()), (0, 0), (5, 9), (BLOCK - 1, 2), (BLOCK, BLOCK), (2 * BLOCK, 777), (7, 2 * BLOCK)] {
            assert_eq!(read(&before, at, len).unwrap(), bytes[at..at + len]);
        }
        assert!(matches!(read(&before, bytes.len(), 1), Err(ReadError::OutOfRange { .. })));
        // One byte of the second block changes behind the open file.
        let mut changed = bytes.clone();
        changed[BLOCK + 5] ^= 1;
        fs::write(file.path(), &changed).unwrap();
        for (at, len) in [(0, bytes.len()), (BLOCK, BLOCK), (BLOCK + 100, 3)] {
            assert!(matches!(read(&open(), at, len), Err(ReadError::Refused { .. })), "{at}");
        }
        assert_eq!(read(&open(), 0, BLOCK).unwrap(), bytes[..BLOCK]);
        // Longer is cut to what was verified, shorter cannot be read.
        fs::write(file.path(), [&bytes[..], b"more"].concat()).unwrap();
        assert_eq!((open().len(), read(&open(), 0, bytes.len()).unwrap()), (bytes.len() as u64, bytes.clone()));
        fs::write(file.path(), &bytes[..BLOCK]).unwrap();
        assert!(read(&open(), 0, bytes.len()).is_err());
    }
}
