//! Brings written bytes to the disk while more are written, so that the sync at the end has little left to wait for.

use std::{fs::File, io, sync::mpsc, thread};

/// Bytes after which a file is flushed in the background.
const STEP: usize = 64 << 20;

/// A thread that flushes. Its errors come out of [`Flusher::finish`], which must be called before what was written counts.
#[derive(Default)]
pub(super) struct Flusher {
    written: usize,
    thread: Option<(mpsc::SyncSender<File>, thread::JoinHandle<io::Result<()>>)>,
}

impl Flusher {
    /// `bytes` more were written to `file`. Never waits for the disk; the thread starts with the first large file.
    pub(super) fn wrote(&mut self, file: &File, bytes: usize) -> io::Result<()> {
        self.written += bytes;
        if self.written < STEP {
            return Ok(());
        }
        self.written = 0;
        let (sender, _) = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Self::start()?),
        };
        // A full channel: the disk is behind, and what is flushed next includes this.
        let _ = sender.try_send(file.try_clone()?);
        Ok(())
    }

    /// Waits for the thread and gives the first error that the disk reported.
    pub(super) fn finish(self) -> io::Result<()> {
        let Some((sender, thread)) = self.thread else { return Ok(()) };
        drop(sender);
        thread.join().map_err(|_| io::Error::other("the flushing thread panicked"))?
    }

    fn start() -> io::Result<(mpsc::SyncSender<File>, thread::JoinHandle<io::Result<()>>)> {
        let (sender, files) = mpsc::sync_channel::<File>(1);
        let flush = move || files.into_iter().try_for_each(|file| file.sync_data());
        Ok((sender, thread::Builder::new().name("flush".into()).spawn(flush)?))
    }
}
