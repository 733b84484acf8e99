//! Writing a model. Outputs appear whole or not at all.

mod draft;
mod gguf;
mod hugging_face;

pub(crate) use draft::Draft;
pub use draft::{Destination, Nameless, WorkId};

use crate::{Model, StoreError, canonical::widen};
use coffer_checkpoint::{DType, TensorInfo, gguf::GgufError};
use coffer_model::names::{self, Place, gguf_row, permuted_heads};
use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory with `config.json`, `model.safetensors`, tokenizer files.
    HuggingFace,
    /// One GGUF file.
    Gguf,
}

/// Streams the tensors of a new model into a folder beside its output, sealed where that is asked for.
pub struct ModelWriter {
    sink: Box<dyn Sink>,
    out: PathBuf,
    /// Bytes of all weights as they are stored.
    bytes: u64,
    /// Tensors that an interrupted run left.
    kept: usize,
    /// Tensors that are whole.
    whole: usize,
    /// When what is there was last brought to the disk.
    noted: Instant,
    pending: VecDeque<Pending>,
    /// Bytes of a tensor that can be written only when it is whole.
    held: Vec<u8>,
}

/// Work that may be lost when the machine stops. Bringing it to the disk costs a moment each time.
const NOTED_EVERY: Duration = Duration::from_secs(4);

/// A place that takes the weights of one model in the container's own order.
trait Sink: Send {
    /// Appends bytes of the current tensor.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
    /// Where they go.
    fn draft(&mut self) -> &mut Draft;
    /// All of it was given.
    fn end(self: Box<Self>) -> Result<Draft, StoreError>;
}

/// A tensor that is not whole yet.
struct Pending {
    info: TensorInfo,
    missing: u64,
    /// Heads over which its rows are permuted.
    heads: Option<usize>,
    /// Whether it is stored as F32.
    widened: bool,
    /// Whether it is stored less 1.
    less_one: bool,
}

impl ModelWriter {
    /// Starts a model like `like` (configuration, tokenizer, template) with the given canonical tensors, whose bytes must
    /// follow in this order, but for the first [`kept`](Self::kept) of them. The output must not exist. GGUF stores 1-D tensors
    /// as F32, as llama.cpp wants them.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the output exists, cannot be created, or cannot say what the model is.
    pub fn create<'a>(
        output: impl Into<Destination<'a>>,
        target: Target,
        like: &Model,
        tensors: &[TensorInfo],
    ) -> Result<Self, StoreError> {
        let mut output: Destination<'_> = output.into();
        let out = output.path;
        if fs::symlink_metadata(out).is_ok() {
            return Err(StoreError::Exists(out.display().to_string()));
        }
        output.work = output.work.map(|work| work.and(format!("{target:?} {tensors:?}").as_bytes()));
        let (pending, stored) = layout(target, like, tensors)?;
        let bytes = pending.iter().fold(0u64, |n, p| n.saturating_add(p.stored_bytes()));
        let mut sink: Box<dyn Sink> = match target {
            Target::HuggingFace => Box::new(hugging_face::HuggingFaceSink::create(output, like, &stored).map_err(named(out))?),
            Target::Gguf => Box::new(gguf::GgufSink::create(output, like, tensors, stored).map_err(named(out))?),
        };
        let (out, kept) = (out.to_owned(), sink.draft().kept());
        let mut writer = Self { sink, out, bytes, kept, whole: 0, noted: Instant::now(), pending, held: Vec::new() };
        writer.pass_over_what_is_kept()?;
        Ok(writer)
    }

    /// Tensors at the beginning that an interrupted run of the same work has left.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// What is there already is not written again, whatever is given for it.
    fn pass_over_what_is_kept(&mut self) -> Result<(), StoreError> {
        let zeros = vec![0; 1 << 16];
        while self.whole < self.kept {
            let Some(Pending { missing, .. }) = self.pending.front() else { break };
            let some = (*missing).min(zeros.len() as u64) as usize;
            self.write(&zeros[..some])?;
        }
        Ok(())
    }

    /// Appends canonical rows of the current tensor; whole tensors may come in several pieces of whole rows.
    /// Rows are put into the container's own order here.
    ///
    /// # Errors
    /// Returns [`StoreError`] if the bytes are more than the tensor lacks, or cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(current) = self.pending.front_mut() else {
            return Err(sequence("the model", format!("{} bytes were given after the last tensor", bytes.len())));
        };
        current.missing = current.missing.checked_sub(bytes.len() as u64).ok_or_else(|| {
            sequence(&current.info.name, format!("{} bytes were given where {} are missing", bytes.len(), current.missing))
        })?;
        let whole = current.missing == 0;
        if current.heads.is_none() && !current.widened && !current.less_one {
            self.sink.write(bytes).map_err(named(&self.out))?;
        } else {
            self.held.extend_from_slice(bytes);
            if whole {
                self.sink.write(&current.arranged(std::mem::take(&mut self.held))).map_err(named(&self.out))?;
            }
        }
        if whole {
            self.pending.pop_front();
            self.whole += 1;
            if self.whole > self.kept && self.noted.elapsed() >= NOTED_EVERY {
                self.note().map_err(named(&self.out))?;
            }
        }
        Ok(())
    }

    fn note(&mut self) -> Result<(), StoreError> {
        self.sink.draft().note(self.whole).map_err(StoreError::io(&self.out))?;
        self.noted = Instant::now();
        Ok(())
    }

    /// Ends early: what is whole is left for the same work to go on with, and the place named where it lies; `None` if nothing is.
    /// Dropping the writer instead removes what was written.
    pub fn leave(mut self) -> Option<PathBuf> {
        if self.whole > self.kept {
            // On a full disk what was noted before is all there is.
            let _ = self.note();
        }
        self.sink.draft().leave()
    }

    /// Brings all of it to the disk.
    ///
    /// # Errors
    /// Returns [`StoreError`] if tensors are missing, or the output cannot be synced.
    pub fn complete(mut self) -> Result<Nameless, StoreError> {
        if let Some(Pending { info, missing, .. }) = self.pending.front() {
            return Err(sequence(&info.name, format!("{missing} bytes are missing")));
        }
        if self.whole > self.kept {
            self.note().map_err(named(&self.out))?;
        }
        self.sink.end().and_then(Draft::complete).map_err(named(&self.out))
    }

    /// The same, and gives it the name that it was made for; gives the bytes of all weights as they are stored.
    ///
    /// # Errors
    /// As [`Self::complete`] and [`Nameless::place`].
    pub fn finish(self) -> Result<u64, StoreError> {
        let (out, bytes) = (self.out.clone(), self.bytes);
        self.complete()?.place(&out).map(|()| bytes)
    }
}

/// Bytes that a GGUF file like `like` with these canonical tensors has beside their own, at most.
///
/// # Errors
/// As [`ModelWriter::create`], as far as no file is needed for it.
pub fn gguf_overhead(like: &Model, tensors: &[TensorInfo]) -> Result<u64, StoreError> {
    let (_, stored) = layout(Target::Gguf, like, tensors)?;
    gguf::overhead(like, tensors, stored)
}

/// What is to come, and what the container keeps of it.
fn layout(target: Target, like: &Model, tensors: &[TensorInfo]) -> Result<(VecDeque<Pending>, Vec<TensorInfo>), StoreError> {
    let places = tensors.iter().map(|info| place(info, target, like)).collect::<Result<Vec<_>, _>>()?;
    let new = |(info, place)| Pending::new(info, place, target, like);
    let pending = tensors.iter().zip(&places).map(new).collect::<Result<VecDeque<_>, _>>()?;
    let stored = stored(&pending, places)?;
    Ok((pending, stored))
}

fn sequence(tensor: &str, reason: impl Into<String>) -> StoreError {
    StoreError::Sequence { tensor: tensor.to_owned(), reason: reason.into() }
}

/// Where the container keeps a canonical tensor.
fn place(info: &TensorInfo, target: Target, like: &Model) -> Result<Place, StoreError> {
    match target {
        Target::HuggingFace => Ok(names::in_hugging_face(&info.name, &info.shape, &like.config)),
        Target::Gguf => {
            names::in_gguf(&info.name, &info.shape, &like.config).ok_or_else(|| sequence(&info.name, "GGUF has no name for it"))
        }
    }
}

/// What the container keeps, in order. The canonical tensors that it stacks must follow one another, all of one type.
fn stored(tensors: &VecDeque<Pending>, places: Vec<Place>) -> Result<Vec<TensorInfo>, StoreError> {
    let mut stored: Vec<TensorInfo> = Vec::new();
    // Rows that the last one still lacks.
    let mut lacks = 0;
    for (Pending { info, widened, .. }, Place { name, shape, first }) in tensors.iter().zip(places) {
        let dtype = if *widened { DType::F32 } else { info.dtype };
        let whole = TensorInfo { name, dtype, shape };
        if first == 0 && lacks == 0 {
            lacks = whole.rows();
            stored.push(whole);
        } else if stored.last() != Some(&whole) || whole.rows().checked_sub(first) != Some(lacks) {
            let stack = stored.last().map_or(&whole.name, |last| &last.name);
            let reason = format!("{stack} holds several tensors, which must all be there, in order and of one type");
            return Err(sequence(&info.name, reason));
        }
        lacks = lacks.saturating_sub(info.rows());
    }
    match stored.last().filter(|_| lacks > 0) {
        Some(last) => Err(sequence(&last.name, format!("{lacks} of its {} rows are missing", last.rows()))),
        None => Ok(stored),
    }
}

/// The output's own name in place of the temporary one, which says nothing to whoever asked for it.
fn named(out: &Path) -> impl FnOnce(StoreError) -> StoreError {
    move |error| match error {
        StoreError::Gguf(GgufError::Write(source)) | StoreError::Io { source, .. } => StoreError::io(out)(source),
        other => other,
    }
}

impl Pending {
    fn new(info: &TensorInfo, place: &Place, target: Target, like: &Model) -> Result<Self, StoreError> {
        let refuse = |reason: &str| sequence(&info.name, reason);
        let missing = info.bytes().ok_or_else(|| refuse("its rows do not fill whole blocks"))?;
        if missing == 0 {
            return Err(refuse("it is empty"));
        }
        let heads = permuted_heads(&info.name, &like.config).filter(|_| target == Target::Gguf);
        if heads.is_some_and(|heads| !info.shape.first().is_some_and(|rows| rows.is_multiple_of(heads as u64 * 2))) {
            return Err(refuse("its rows do not divide into heads"));
        }
        let widened = target == Target::Gguf && is_widened(info.dtype, &place.shape);
        let less_one = target == Target::HuggingFace && like.config.is_less_one(&info.shape);
        if less_one && info.dtype != DType::F32 {
            return Err(refuse("it is stored less 1, and must be given in F32"));
        }
        Ok(Self { info: info.clone(), missing, heads, widened, less_one })
    }

    /// Bytes in the container, before any are written.
    fn stored_bytes(&self) -> u64 {
        if self.widened { self.missing.saturating_mul(2) } else { self.info.stored_bytes().unwrap_or(self.missing) }
    }

    /// A whole tensor in the container's order and type.
    fn arranged(&self, canonical: Vec<u8>) -> Vec<u8> {
        let rows = self.info.shape.first().copied().unwrap_or(1);
        let ordered = match self.heads {
            None => canonical,
            Some(heads) => {
                let row_bytes = canonical.len() / rows as usize;
                let mut out = vec![0; canonical.len()];
                for (row, bytes) in canonical.chunks_exact(row_bytes).enumerate() {
                    let at = gguf_row(row as u64, rows, heads) as usize * row_bytes;
                    out[at..at + row_bytes].copy_from_slice(bytes);
                }
                out
            }
        };
        match self {
            Self { widened: true, .. } => widen(self.info.dtype, &ordered).unwrap_or(ordered),
            Self { less_one: true, .. } => {
                let float = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                ordered.chunks_exact(4).flat_map(|four| (float(four) - 1.0).to_le_bytes()).collect()
            }
            _ => ordered,
        }
    }
}

/// llama.cpp computes with 1-D tensors in F32 only.
fn is_widened(dtype: DType, shape: &[u64]) -> bool {
    shape.len() == 1 && matches!(dtype, DType::BF16 | DType::F16)
}
