//! Models whose files somebody signed: their digests, and opening one so that what was verified is what is used.

use crate::{FileSet, StoreError, checked::Tags, files::Unchecked};
use coffer_evidence::signature::{Digests, Ignored, SignatureChecked, SignatureError, Statement};
use coffer_seal::{Identity, recognize::Recognizer};
use sha2::{Digest, Sha256};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};
use zeroize::Zeroizing;

/// Bytes read at once; whole blocks of tags.
const CHUNK: usize = 1 << 20;

/// Told how many bytes of how many are done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// How to look at a model's files.
pub struct Look<'a> {
    /// For sealed models.
    pub identities: &'a [Identity],
    /// What is not looked at, besides what the signature names.
    pub ignored: &'a Ignored,
    /// Files that nobody signed are no reason to refuse a model. They are not used either way.
    pub ignore_unsigned: bool,
    /// Files hashed at the same time.
    pub threads: usize,
}

/// Hashes every file of the model at `path` (directory, file or bundle) and states what it consists of, ready to be signed.
///
/// # Errors
/// Returns [`StoreError`] if a file cannot be read, or if there is a link or something that is no file.
pub fn statement(path: &Path, look: &Look<'_>, progress: Progress<'_>) -> Result<Statement, StoreError> {
    let files = FileSet::open_tree(path, look.identities, look.ignored)?;
    let (digests, _) = digest(&files, look.threads, progress)?;
    let name = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match (files.is_one_file(), digests.values().next()) {
        (true, Some(digest)) => Ok(Statement::of_file(&name, *digest)),
        _ => Ok(Statement::of_directory(&name, digests, look.ignored.clone())?),
    }
}

/// Hashes every file of the model at `path` and compares it with what was signed. Each file of the outcome is exactly what was
/// hashed: every later read is held against it, block by block, and refused if the file was changed since.
///
/// # Errors
/// Returns [`StoreError::Signature`] with the files that differ, are missing, or were not signed.
pub fn files(path: &Path, look: &Look<'_>, signed: &SignatureChecked, progress: Progress<'_>) -> Result<FileSet, StoreError> {
    let statement = signed.statement();
    let files = FileSet::open_tree(path, look.identities, &look.ignored.and(statement.ignored()))?;
    let (digests, tags) = digest(&files, look.threads, progress)?;
    let mut differences = statement.differences(&digests);
    let unsigned = std::mem::take(&mut differences.unsigned);
    if !look.ignore_unsigned {
        differences.unsigned.clone_from(&unsigned);
    }
    if !differences.is_empty() {
        return Err(SignatureError::Differs(differences).into());
    }
    Ok(files.checked(tags.into_iter().filter(|(name, _)| !unsigned.contains(name)).collect()))
}

type Tagged = Vec<(String, Arc<Tags>)>;

/// SHA-256 of each file, and tags by which the same bytes are recognized later.
fn digest(files: &FileSet, threads: usize, progress: Progress<'_>) -> Result<(Digests, Tagged), StoreError> {
    let list = files.list();
    let total = list.iter().map(|(_, size)| size).sum();
    let recognizer = Arc::new(Recognizer::new()?);
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, list.len().max(1)) {
            let (send, next, recognizer) = (send.clone(), &next, &recognizer);
            scope.spawn(move || {
                while let Some((at, (name, _))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, list.get(at)?)))
                {
                    let done = hash(files, name, Tags::new(recognizer.clone(), at as u32), &mut |bytes| {
                        // The receiver is gone only if another file failed.
                        let _ = send.send(Message::Bytes(bytes));
                    });
                    if send.send(Message::File(name.clone(), done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut digests, mut tagged, mut done) = (Digests::new(), Tagged::new(), 0);
        for message in receive {
            match message {
                Message::Bytes(bytes) => {
                    done += bytes;
                    progress(done, total);
                }
                Message::File(name, outcome) => {
                    let (digest, tags) = outcome?;
                    digests.insert(name.clone(), digest);
                    tagged.push((name, Arc::new(tags)));
                }
            }
        }
        Ok((digests, tagged))
    })
}

enum Message {
    Bytes(u64),
    File(String, Result<([u8; 32], Tags), StoreError>),
}

fn hash(files: &FileSet, name: &str, mut tags: Tags, read: &mut dyn FnMut(u64)) -> Result<([u8; 32], Tags), StoreError> {
    let Unchecked(file) = files.open_unchecked(name)?;
    let mut hasher = Sha256::new();
    let mut buffer = Zeroizing::new(vec![0; (CHUNK as u64).min(file.len()) as usize]);
    let mut at = 0;
    while at < file.len() {
        let chunk = &mut buffer[..(CHUNK as u64).min(file.len() - at) as usize];
        file.read_exact_at(at, chunk)?;
        hasher.update(&*chunk);
        tags.add(chunk)?;
        at += chunk.len() as u64;
        read(chunk.len() as u64);
    }
    Ok((hasher.finalize().into(), tags))
}
