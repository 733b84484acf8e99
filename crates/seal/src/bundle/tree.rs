//! Sealing what lies on a disk: one file, or a folder with all that is in it.

use super::{
    BundleError, BundleWriter, Progress,
    records::{self, RecordKind},
};
use crate::Recipient;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Deepest folder that is followed.
const MAX_DEPTH: usize = 64;

/// Seals the file or folder `path` as the bundle `out`. Names inside are relative to `path`; a file keeps its own name.
/// Links, devices and names that are not UTF-8 are refused before anything is written.
pub fn seal_path(path: &Path, out: &Path, recipients: &[Recipient], progress: Progress<'_>) -> Result<(), BundleError> {
    seal(list(path)?, out, recipients, &|_| None, progress)
}

/// As [`seal_path`], and every file whose name says that it is text or JSONL gets an index of its records. There must be one, or a
/// Parquet file, which has its own.
pub fn seal_data(path: &Path, out: &Path, recipients: &[Recipient], progress: Progress<'_>) -> Result<(), BundleError> {
    let files = list(path)?;
    if !files.iter().any(|file| records::has_records(&file.name)) {
        let why = format!("there is {} in it", records::NONE);
        return Err(BundleError::Source { path: path.display().to_string(), why });
    }
    seal(files, out, recipients, &RecordKind::of_name, progress)
}

fn seal(
    files: Vec<Source>,
    out: &Path,
    recipients: &[Recipient],
    kind_of: &dyn Fn(&str) -> Option<RecordKind>,
    progress: Progress<'_>,
) -> Result<(), BundleError> {
    let total = files.iter().map(|file| file.size).sum();
    let mut writer = BundleWriter::create(out, recipients)?;
    let mut done = 0;
    for file in files {
        let source = File::open(&file.path).map_err(BundleError::io(&file.path))?;
        let mut counted = Counted { source, done: &mut done, total, progress: &mut *progress };
        match kind_of(&file.name) {
            Some(kind) => writer.add_records(&file.name, kind, &mut counted)?,
            None => writer.add(&file.name, &mut counted)?,
        }
    }
    writer.finish()
}

struct Source {
    name: String,
    path: PathBuf,
    size: u64,
}

struct Counted<'a> {
    source: File,
    done: &'a mut u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        *self.done += read as u64;
        (self.progress)(*self.done, self.total);
        Ok(read)
    }
}

fn list(path: &Path) -> Result<Vec<Source>, BundleError> {
    let refused = |why: &str| BundleError::Source { path: path.display().to_string(), why: why.into() };
    let meta = fs::metadata(path).map_err(BundleError::io(path))?;
    let mut files = Vec::new();
    if meta.is_file() {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("its name is not UTF-8"))?;
        files.push(Source { name: name.into(), path: path.into(), size: meta.len() });
    } else {
        walk(path, "", 0, &mut files)?;
    }
    if files.is_empty() { Err(refused("there is no file in it")) } else { Ok(files) }
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Source>) -> Result<(), BundleError> {
    let mut entries =
        fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()).map_err(BundleError::io(folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let refused = |why: &str| BundleError::Source { path: path.display().to_string(), why: why.into() };
        let name = entry.file_name();
        let name = format!("{prefix}{}", name.to_str().ok_or_else(|| refused("its name is not UTF-8"))?);
        let meta = fs::symlink_metadata(&path).map_err(BundleError::io(&path))?;
        if meta.is_dir() && depth < MAX_DEPTH {
            walk(&path, &format!("{name}/"), depth + 1, files)?;
        } else if meta.is_file() {
            files.push(Source { name, path, size: meta.len() });
        } else if meta.is_symlink() {
            return Err(refused("links are not sealed: put the file itself there (`cp -L`)"));
        } else {
            return Err(refused("only files, and folders at most 64 deep, are sealed"));
        }
    }
    Ok(())
}
