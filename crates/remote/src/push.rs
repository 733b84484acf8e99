//! A bundle that exists, copied to a store. Ciphertext can be sent again from the middle, which what is sealed on the fly cannot: it
//! would have another key each time. The marker goes last: before it, nothing there is a bundle.

use crate::{
    address::Address,
    error::{Failure, RemoteError},
    place::{below, objects},
    runtime,
};
use bytes::Bytes;
use coffer_seal::{
    bundle::{Bundle, Progress},
    place::{self, Kind, Place, PlacedFile},
};
use futures_util::{StreamExt, stream};
use object_store::{
    Error, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    multipart::{MultipartStore, PartId},
    path::Path as Name,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

const MARKER: &str = "coffer.bundle";
const DATA: &str = "data";
/// Least length of a part; stores take 10,000 parts, and 5 MiB at least in each but the last.
const PART: u64 = 8 << 20;
const MAX_PARTS: u64 = 10_000;
const AT_ONCE: usize = 4;
/// Of a stream, its head: random, so that whoever has the same head has the same stream.
const HEAD: u64 = 74;
/// Of what is not `data`: a manifest is the longest.
const MAX_SMALL: u64 = 128 << 20;

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The bundle is there. So many bytes of it were sent by this run.
    Sent(u64),
    /// It was there already.
    Already,
}

/// Copies the bundle at `path` to `url`, going on where an earlier run to the same URL was cut off.
///
/// # Errors
/// Returns [`RemoteError`] if there is something else at `url`, or the copy failed. What was sent is kept for the next run (in
/// `PATH.push`, beside the bundle); nobody takes it for a bundle.
pub fn push(path: &Path, url: &str, progress: Progress<'_>) -> Result<Pushed, RemoteError> {
    Push { path, to: &Address::parse(url)?, part: PART }.run(progress)
}

pub(crate) struct Push<'a> {
    pub(crate) path: &'a Path,
    pub(crate) to: &'a Address,
    pub(crate) part: u64,
}

/// What an interrupted upload of `data` has come to.
#[derive(Serialize, Deserialize)]
struct State {
    url: String,
    /// The bundle's marker: another bundle has another one.
    marker: String,
    length: u64,
    upload: String,
    part: u64,
    done: Vec<Option<String>>,
}

impl Push<'_> {
    pub(crate) fn run(&self, progress: Progress<'_>) -> Result<Pushed, RemoteError> {
        let Some(parts) = &self.to.store.parts else {
            let why = "can only be read; push to s3://, gs:// or az://".into();
            return Err(Failure::Url(why).at(&self.to.shown));
        };
        if place::url(self.path).is_some() || !Bundle::is_bundle(self.path) {
            let source = io::Error::new(
                io::ErrorKind::InvalidInput,
                "no sealed bundle of this machine; seal it first: nothing else is pushed",
            );
            return Err(self.local(source));
        }
        let bundle = place::at(self.path).map_err(|e| self.local(e))?;
        let names = small_files(&*bundle).map_err(|e| self.local(e))?;
        let marker = self.read(&*bundle, MARKER)?;
        if self.is_there(&*bundle, &names, &marker)? {
            return Ok(Pushed::Already);
        }
        let data = bundle.open(DATA).map_err(|e| self.local(e))?;
        let mut sent = 0;
        if !self.data_is_there(&*data)? {
            let mut told = |done| progress(done, data.len());
            sent += self.send_data(parts.as_ref(), &*data, &marker, &mut told)?;
        }
        for name in &names {
            sent += self.send(name, self.read(&*bundle, name)?, PutMode::Overwrite)?;
        }
        sent += self.send(MARKER, marker, PutMode::Create)?;
        // Without it the next run looks at the marker and has nothing to do.
        let _ = std::fs::remove_file(self.state_path());
        progress(data.len(), data.len());
        Ok(Pushed::Sent(sent))
    }

    /// Whether this very bundle is there. Anything else is refused.
    fn is_there(&self, bundle: &dyn Place, names: &[String], marker: &[u8]) -> Result<bool, RemoteError> {
        let occupied = |what: String| Err(Failure::Occupied(what).at(&self.to.shown));
        let there = objects(&self.to.store, &self.to.path, &self.to.shown)?;
        if let Some((name, _)) = there.iter().find(|(n, _)| n != MARKER && n != DATA && !names.contains(n)) {
            return occupied(format!(
                "{name} lies there, which does not belong to this bundle; push to another name, or remove it"
            ));
        }
        if !there.iter().any(|(name, _)| name == MARKER) {
            return Ok(false);
        }
        if self.fetch(MARKER, None)? != marker {
            return occupied("another bundle is there already; push to another name, or remove it".into());
        }
        for name in names {
            if !there.iter().any(|(n, _)| n == name) || self.fetch(name, None)? != self.read(bundle, name)? {
                return occupied(format!(
                    "this bundle is there with another {name}, from before or after a rekey; remove {MARKER} there and push again \
                     (data is not sent twice)"
                ));
            }
        }
        Ok(true)
    }

    /// Whether `data` is there whole: an upload appears at once, and its head is of this stream alone.
    fn data_is_there(&self, data: &dyn PlacedFile) -> Result<bool, RemoteError> {
        let name = self.name(DATA)?;
        match self.wait(self.to.store.objects.head(&name))? {
            Err(Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.failed(DATA, &e)),
            Ok(meta) if meta.size != data.len() => Ok(false),
            Ok(_) => Ok(self.fetch(DATA, Some(HEAD.min(data.len())))? == self.piece(data, 0, HEAD.min(data.len()))?),
        }
    }

    fn send_data(
        &self,
        to: &dyn MultipartStore,
        data: &dyn PlacedFile,
        marker: &[u8],
        told: &mut dyn FnMut(u64),
    ) -> Result<u64, RemoteError> {
        let marker = String::from_utf8_lossy(marker).into_owned();
        if let Some(state) = self.read_state(&marker, data.len()) {
            // `None`: the server has dropped that upload.
            if let Some(sent) = self.send_parts(to, data, state, told)? {
                return Ok(sent);
            }
        }
        let name = self.name(DATA)?;
        let upload = self.wait(to.create_multipart(&name))?.map_err(|e| self.failed(DATA, &e))?;
        let part = self.part.max(data.len().div_ceil(MAX_PARTS).next_multiple_of(1 << 20));
        let done = vec![None; data.len().div_ceil(part) as usize];
        let state = State { url: self.to.shown.clone(), marker, length: data.len(), upload, part, done };
        let vanished = || Failure::Server("the upload has vanished while it ran".into()).at(&self.to.shown);
        self.send_parts(to, data, state, told)?.ok_or_else(vanished)
    }

    /// Sends what `state` lacks and completes the upload; `None` if the server no longer knows it.
    fn send_parts(
        &self,
        to: &dyn MultipartStore,
        data: &dyn PlacedFile,
        mut state: State,
        told: &mut dyn FnMut(u64),
    ) -> Result<Option<u64>, RemoteError> {
        let name = self.name(DATA)?;
        self.write_state(&state)?;
        let (part, upload) = (state.part, state.upload.clone());
        let length = |at: usize| part.min(data.len() - at as u64 * part);
        let missing: Vec<usize> = (0..state.done.len()).filter(|at| state.done[*at].is_none()).collect();
        let mut done = data.len() - missing.iter().map(|at| length(*at)).sum::<u64>();
        let mut sent = 0;
        told(done);
        let mut parts = stream::iter(missing)
            .map(|at| {
                let (name, upload) = (&name, &upload);
                async move {
                    let bytes = self.piece(data, at as u64 * part, length(at))?;
                    Ok::<_, RemoteError>((at, to.put_part(name, upload, at, PutPayload::from(Bytes::from(bytes))).await))
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = self.wait(parts.next())? {
            match outcome? {
                (_, Err(Error::NotFound { .. })) => return Ok(None),
                (_, Err(e)) => return Err(self.failed(DATA, &e)),
                (at, Ok(id)) => {
                    state.done[at] = Some(id.content_id);
                    self.write_state(&state)?;
                    (done, sent) = (done + length(at), sent + length(at));
                    told(done);
                }
            }
        }
        drop(parts);
        let ids = state.done.into_iter().flatten().map(|content_id| PartId { content_id }).collect();
        match self.wait(to.complete_multipart(&name, &upload, ids))? {
            Ok(_) => Ok(Some(sent)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(DATA, &e)),
        }
    }

    fn send(&self, name: &str, bytes: Vec<u8>, mode: PutMode) -> Result<u64, RemoteError> {
        let (object, length) = (self.name(name)?, bytes.len() as u64);
        let payload = PutPayload::from(Bytes::from(bytes));
        let put = |mode| self.wait(self.to.store.objects.put_opts(&object, payload.clone(), PutOptions::from(mode)));
        let outcome = match put(mode)? {
            // Not every store can create without replacing; that nothing was there, this run has seen.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => put(PutMode::Overwrite)?,
            outcome => outcome,
        };
        match outcome {
            Ok(_) => Ok(length),
            Err(Error::AlreadyExists { .. }) => {
                let what = "another run has put a bundle there in the meantime; look with `coffer inspect`".into();
                Err(Failure::Occupied(what).at(&self.to.shown))
            }
            Err(e) => Err(self.failed(name, &e)),
        }
    }

    /// An object there, or its first bytes.
    fn fetch(&self, name: &str, first: Option<u64>) -> Result<Vec<u8>, RemoteError> {
        let object = self.name(name)?;
        let failed = |e: Error| self.failed(name, &e);
        let range = GetRange::Bounded(0..first.unwrap_or(MAX_SMALL));
        let get = async {
            self.to
                .store
                .objects
                .get_opts(&object, object_store::GetOptions { range: Some(range), ..Default::default() })
                .await?
                .bytes()
                .await
        };
        Ok(self.wait(get)?.map_err(failed)?.to_vec())
    }

    fn read(&self, bundle: &dyn Place, name: &str) -> Result<Vec<u8>, RemoteError> {
        let file = bundle.open(name).map_err(|e| self.local(e))?;
        if file.len() > MAX_SMALL {
            return Err(self.local(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{name} has {} bytes; at most {MAX_SMALL} can be", file.len()),
            )));
        }
        self.piece(&*file, 0, file.len())
    }

    fn piece(&self, file: &dyn PlacedFile, at: u64, length: u64) -> Result<Vec<u8>, RemoteError> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(at, &mut bytes).map_err(|e| self.local(e))?;
        Ok(bytes)
    }

    fn name(&self, name: &str) -> Result<Name, RemoteError> {
        below(&self.to.path, name).map_err(|e| self.local(e))
    }

    fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, RemoteError> {
        Ok(runtime().map_err(|e| self.local(e))?.block_on(what))
    }

    fn failed(&self, name: &str, error: &Error) -> RemoteError {
        RemoteError::of(&format!("{}/{name}", self.to.shown), error)
    }

    fn local(&self, source: io::Error) -> RemoteError {
        Failure::Local(source).at(self.path.display().to_string())
    }

    fn state_path(&self) -> PathBuf {
        let mut name = self.path.components().as_path().as_os_str().to_owned();
        name.push(".push");
        name.into()
    }

    /// What an earlier run has left, if it was about the same; anything else counts for nothing.
    fn read_state(&self, marker: &str, length: u64) -> Option<State> {
        let state: State = serde_json::from_slice(&std::fs::read(self.state_path()).ok()?).ok()?;
        let same = state.url == self.to.shown && state.marker == marker && state.length == length;
        let parts = length.checked_div(state.part)? + u64::from(!length.is_multiple_of(state.part));
        (same && state.done.len() as u64 == parts).then_some(state)
    }

    fn write_state(&self, state: &State) -> Result<(), RemoteError> {
        let path = self.state_path();
        let failed = |e| Failure::Local(e).at(path.display().to_string());
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        serde_json::to_writer(&file, state).map_err(|e| failed(e.into()))?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

/// All files of a bundle but the marker and `data`.
fn small_files(bundle: &dyn Place) -> io::Result<Vec<String>> {
    let mut names = vec!["manifest".to_owned()];
    let listed = bundle.list("keys")?.unwrap_or_default();
    names.extend(listed.into_iter().filter(|e| matches!(e.kind, Kind::File(_))).map(|e| format!("keys/{}", e.name)));
    Ok(names)
}
