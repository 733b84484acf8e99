//! An output under a temporary name: a plain file, a file in a plain directory, or a file in a sealed bundle.

use crate::StoreError;
use coffer_seal::{
    Recipient,
    bundle::{BundleWriter, SealedStream},
};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tempfile::{NamedTempFile, TempDir};

/// Bytes that are collected before the system is asked to write them.
const BUFFER: usize = 1 << 20;

/// Where a model is written, and for whom. A path alone is a plain output.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// File, directory or bundle, which must not exist.
    pub path: &'a Path,
    /// Who may open it; without any the output is plain. With some it is a bundle that is sealed while it is written:
    /// its plaintext reaches no disk.
    pub recipients: &'a [Recipient],
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Destination<'a> {
    fn from(path: &'a P) -> Self {
        Self { path: path.as_ref(), recipients: &[] }
    }
}

/// What is being written.
pub(super) enum Draft {
    File(BufWriter<NamedTempFile>),
    Directory { directory: TempDir, file: BufWriter<File> },
    Bundle(Box<SealedStream>),
}

impl Draft {
    /// A single file; inside a bundle it is called `name`.
    pub(super) fn file(output: Destination<'_>, name: &str) -> Result<Self, StoreError> {
        if !output.recipients.is_empty() {
            return Ok(Self::Bundle(Box::new(BundleWriter::create(output.path, output.recipients)?.stream(name)?)));
        }
        let directory = parent(output.path);
        let file = temporary(0o666).tempfile_in(directory).map_err(StoreError::io(directory))?;
        Ok(Self::File(BufWriter::with_capacity(BUFFER, file)))
    }

    /// The large file `name` with small ones beside it, which are written now.
    pub(super) fn directory(output: Destination<'_>, beside: &[(&str, String)], name: &str) -> Result<Self, StoreError> {
        if !output.recipients.is_empty() {
            let mut bundle = BundleWriter::create(output.path, output.recipients)?;
            for (name, text) in beside {
                bundle.add(name, &mut text.as_bytes())?;
            }
            return Ok(Self::Bundle(Box::new(bundle.stream(name)?)));
        }
        let place = parent(output.path);
        let directory = temporary(0o777).tempdir_in(place).map_err(StoreError::io(place))?;
        for (name, text) in beside {
            let path = directory.path().join(name);
            let written = File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
            written.map_err(StoreError::io(&path))?;
        }
        let path = directory.path().join(name);
        let file = BufWriter::with_capacity(BUFFER, File::create(&path).map_err(StoreError::io(&path))?);
        Ok(Self::Directory { directory, file })
    }

    /// Syncs, and gives the output its name.
    pub(super) fn finish(self, out: &Path) -> Result<(), StoreError> {
        match self {
            Self::File(file) => {
                let file = file.into_inner().map_err(|e| StoreError::io(out)(e.into_error()))?;
                file.as_file().sync_all().map_err(StoreError::io(out))?;
                file.persist_noclobber(out).map_err(|e| StoreError::io(out)(e.error))?;
            }
            Self::Directory { directory, file } => {
                let file = file.into_inner().map_err(|e| StoreError::io(out)(e.into_error()))?;
                file.sync_all().map_err(StoreError::io(out))?;
                sync_directory(directory.path())?;
                // Rename would replace an empty directory that appeared meanwhile, but nothing that holds anything.
                fs::rename(directory.path(), out).map_err(StoreError::io(out))?;
                let _renamed = directory.keep();
            }
            Self::Bundle(stream) => return Ok(stream.end().finish()?),
        }
        sync_directory(parent(out))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Directory { file, .. } => file.write(bytes),
            Self::Bundle(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Directory { file, .. } => file.flush(),
            Self::Bundle(stream) => stream.flush(),
        }
    }
}

/// Names that say whose remains they are, should the machine stop.
fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".coffer-").suffix(".partial").permissions(Permissions::from_mode(mode));
    builder
}

/// The directory in which `out` appears.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in `directory` durable.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(StoreError::io(directory))
}
