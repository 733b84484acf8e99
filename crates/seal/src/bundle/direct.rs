//! A large file that is written past the page cache, by a thread of its own.
//!
//! What is sealed is rarely read next, and going round the cache saves a copy, the memory, and the wait for all of it to reach the
//! disk at the end. Where the file system cannot do that, the same blocks go through the cache.

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::mpsc,
    thread,
};

/// Bytes that are written at a time.
const BLOCK: usize = 4 << 20;
/// Blocks that exist, at most, beside the one that is filled.
const AHEAD: usize = 2;
/// What places, lengths and memory must be multiples of; more than disks ask for.
const ALIGNMENT: usize = 4096;
#[cfg(target_os = "linux")]
const DIRECT: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
const DIRECT: OFlags = OFlags::empty();

/// The file. Files of less than a block are simply written.
pub(super) struct DirectFile {
    file: File,
    block: Block,
    /// From the first full block on.
    writer: Option<Writer>,
}

struct Writer {
    full: mpsc::SyncSender<Block>,
    free: mpsc::Receiver<Block>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl DirectFile {
    /// A new file; there must be none.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create_new(path)?, block: Block::new(), writer: None })
    }

    /// Appends `bytes`. What went wrong with a block may be reported later, and is by [`Self::finish`] at the latest.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = self.block.take_from(bytes);
            if self.block.filled == BLOCK {
                self.hand_on()?;
            }
        }
        Ok(())
    }

    /// Writes the rest; everything is on the disk then.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.end()?;
            set_direct(&self.file, false)?;
        }
        self.file.write_all(self.block.bytes())?;
        self.file.sync_all()
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::start(self.file.try_clone()?)?),
        };
        // The thread holds both ends until it fails; then it says why.
        let Ok(mut next) = writer.free.recv() else { return self.fail() };
        std::mem::swap(&mut self.block, &mut next);
        if writer.full.send(next).is_err() {
            return self.fail();
        }
        Ok(())
    }

    fn fail(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("the thread that writes is gone");
        self.writer.take().map_or(Ok(()), Writer::end).and_then(|()| Err(gone()))
    }
}

impl Writer {
    fn start(file: File) -> io::Result<Self> {
        let (full, blocks) = mpsc::sync_channel(AHEAD);
        let (back, free) = mpsc::channel();
        for _ in 0..AHEAD {
            // The receiver is still here.
            let _ = back.send(Block::new());
        }
        let thread = thread::Builder::new().name("write".into()).spawn(move || write_blocks(&file, &blocks, &back))?;
        Ok(Self { full, free, thread })
    }

    fn end(self) -> io::Result<()> {
        drop(self.full);
        self.thread.join().map_err(|_| io::Error::other("the thread that writes panicked"))?
    }
}

fn write_blocks(mut file: &File, blocks: &mpsc::Receiver<Block>, back: &mpsc::Sender<Block>) -> io::Result<()> {
    let mut direct = set_direct(file, true).is_ok();
    for mut block in blocks {
        let mut rest = block.bytes();
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Refused, or cut at a place that is no multiple: through the cache from here on.
                Err(error) if direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    set_direct(file, false)?;
                    direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        block.filled = 0;
        // Nobody takes the last blocks back.
        let _ = back.send(block);
    }
    Ok(())
}

fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(DIRECT, on);
    Ok(fcntl_setfl(file, flags)?)
}

/// `BLOCK` bytes of which the address is a multiple of `ALIGNMENT`.
struct Block {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start, filled: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// Takes as many of `bytes` as fit and gives the rest.
    fn take_from<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
        let at = self.start + self.filled;
        self.memory[at..at + taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_hold_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let pattern: Vec<u8> = (0..3 * BLOCK + 4097).map(|i| (i * 31 / 7) as u8).collect();
        for len in [0, 74, BLOCK - 1, BLOCK, BLOCK + 1, pattern.len()] {
            let path = folder.path().join(len.to_string());
            let mut file = DirectFile::create(&path).unwrap();
            pattern[..len].chunks(262_144 + 74).for_each(|part| file.write(part).unwrap());
            file.finish().unwrap();
            assert!(fs::read(&path).unwrap() == pattern[..len], "{len}");
        }
        assert!(DirectFile::create(&folder.path().join("0")).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported() {
        let mut file =
            DirectFile { file: File::options().write(true).open("/dev/full").unwrap(), block: Block::new(), writer: None };
        let written = (0..8 * AHEAD).try_for_each(|_| file.write(&[1; BLOCK]));
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
