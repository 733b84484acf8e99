//! Sealed files as the kernel asks for them: a read-only tree that never changes, so that the kernel may keep names,
//! attributes and pages for as long as it likes.

use crate::OnError;
use coffer_checkpoint::{ReadAt, ReadError};
use coffer_store::{FileSet, StoreError};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use nix::unistd::{getegid, geteuid};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};
use zeroize::Zeroizing;

/// Nothing changes while it is mounted.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const ROOT: usize = 0;
const BLOCK: u32 = 4096;

/// The tree. The node at index `i` has the inode number `i + 1`.
pub(crate) struct Files {
    nodes: Vec<Node>,
    on_error: OnError,
    told: Mutex<Vec<String>>,
    /// Buffers of answers that were sent, for the next: as many as threads. To clear one each time costs as much as decrypting into it.
    spare: Mutex<Vec<Zeroizing<Vec<u8>>>>,
}

struct Node {
    parent: usize,
    content: Content,
}

enum Content {
    Folder(BTreeMap<String, usize>),
    File { size: u64, bytes: Arc<dyn ReadAt> },
}

impl Files {
    /// Lays out the names of `files`, which are relative and without `.` and `..`.
    pub(crate) fn new(files: &FileSet, on_error: OnError) -> Result<Self, StoreError> {
        let mut nodes = vec![Node { parent: ROOT, content: Content::Folder(BTreeMap::new()) }];
        for (full_name, size) in files.list() {
            let (folders, name) = full_name.rsplit_once('/').unwrap_or(("", full_name));
            let mut parent = ROOT;
            for folder in folders.split('/').filter(|f| !f.is_empty()) {
                parent = child(&mut nodes, parent, folder, || Content::Folder(BTreeMap::new()));
            }
            let bytes = files.file(full_name)?;
            child(&mut nodes, parent, name, || Content::File { size: *size, bytes });
        }
        Ok(Self { nodes, on_error, told: Mutex::default(), spare: Mutex::default() })
    }

    fn node(&self, inode: INodeNo) -> Result<(usize, &Node), Errno> {
        let index = usize::try_from(inode.0).ok().and_then(|n| n.checked_sub(1)).ok_or(Errno::ENOENT)?;
        self.nodes.get(index).map(|node| (index, node)).ok_or(Errno::ENOENT)
    }

    fn folder(&self, inode: INodeNo) -> Result<(usize, usize, &BTreeMap<String, usize>), Errno> {
        match self.node(inode)? {
            (index, Node { parent, content: Content::Folder(names) }) => Ok((index, *parent, names)),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn attributes(&self, index: usize) -> Result<FileAttr, Errno> {
        let content = &self.nodes.get(index).ok_or(Errno::ENOENT)?.content;
        let (kind, perm, size) = match content {
            Content::Folder(_) => (FileType::Directory, 0o555, 0),
            Content::File { size, .. } => (FileType::RegularFile, 0o444, *size),
        };
        Ok(FileAttr {
            ino: number(index),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (_, _, names) = self.folder(parent)?;
        let index = name.to_str().and_then(|name| names.get(name)).ok_or(Errno::ENOENT)?;
        self.attributes(*index)
    }

    /// The bytes at `offset`, at most `len`; fewer at the end of the file.
    fn bytes(&self, inode: INodeNo, offset: u64, len: u32) -> Result<Zeroizing<Vec<u8>>, Errno> {
        let (_, Node { content: Content::File { size, bytes }, .. }) = self.node(inode)? else { return Err(Errno::EISDIR) };
        let len = u64::from(len).min(size.saturating_sub(offset));
        // One that is too small is cleared and dropped: growing it would leave its content behind.
        let spare = self.spares().pop().filter(|buffer| buffer.capacity() >= len as usize);
        let mut out = spare.unwrap_or_else(|| Zeroizing::new(Vec::with_capacity(len as usize)));
        out.resize(len as usize, 0);
        bytes.read_exact_at(offset, &mut out).map_err(|error| self.tell(&error))?;
        Ok(out)
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Zeroizing<Vec<u8>>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once what is damaged; whoever reads learns no more than EIO, again and again.
    fn tell(&self, error: &ReadError) -> Errno {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        if !told.contains(&text) {
            (self.on_error)(&text);
            told.push(text);
        }
        Errno::EIO
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode).and_then(|(index, _)| self.attributes(index)) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(inode, offset, size) {
            Ok(bytes) => {
                reply.data(&bytes);
                self.spares().push(bytes);
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (index, parent, names) = match self.folder(inode) {
            Ok(found) => found,
            Err(error) => return reply.error(error),
        };
        let own = [(".", index), ("..", parent)].into_iter();
        let entries = own.chain(names.iter().map(|(name, index)| (name.as_str(), *index)));
        for (at, (name, index)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let folder = matches!(self.nodes.get(index), Some(Node { content: Content::Folder(_), .. }));
            let kind = if folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(number(index), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// The child `name` of the folder `parent`, made if it is not there.
fn child(nodes: &mut Vec<Node>, parent: usize, name: &str, content: impl FnOnce() -> Content) -> usize {
    let next = nodes.len();
    let Some(Node { content: Content::Folder(names), .. }) = nodes.get_mut(parent) else { return parent };
    let index = *names.entry(name.to_owned()).or_insert(next);
    if index == next {
        nodes.push(Node { parent, content: content() });
    }
    index
}

fn number(index: usize) -> INodeNo {
    INodeNo(index as u64 + 1)
}
