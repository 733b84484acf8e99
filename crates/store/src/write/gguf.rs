//! One GGUF file.

use super::{
    Sink,
    draft::{Destination, Draft},
    is_widened,
};
use crate::{Model, StoreError, open::VECTOR_DTYPE};
use coffer_checkpoint::{
    DType, TensorInfo,
    gguf::{GgufWriter, Metadata, Value},
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

pub(super) struct GgufSink {
    writer: GgufWriter<Draft>,
}

impl GgufSink {
    /// `tensors` are the canonical ones, `infos` what is stored of them.
    pub(super) fn create(
        output: Destination<'_>,
        like: &Model,
        tensors: &[TensorInfo],
        infos: Vec<TensorInfo>,
    ) -> Result<Self, StoreError> {
        let stem = output.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
        let path = output.path;
        let draft = Draft::file(output, &format!("{stem}.gguf"))?;
        Ok(Self { writer: begin(draft, path, like, tensors, infos)? })
    }
}

/// Bytes of a file that are no weights.
pub(super) fn overhead(like: &Model, tensors: &[TensorInfo], infos: Vec<TensorInfo>) -> Result<u64, StoreError> {
    let mut count = Count(infos.len() as u64 * MOST_PADDING);
    begin(&mut count, Path::new("model.gguf"), like, tensors, infos)?;
    Ok(count.0)
}
/// Between two tensors.
const MOST_PADDING: u64 = 31;

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all that comes before the weights.
fn begin<W: Write>(
    out: W,
    path: &Path,
    like: &Model,
    tensors: &[TensorInfo],
    mut infos: Vec<TensorInfo>,
) -> Result<GgufWriter<W>, StoreError> {
    let metadata = metadata(path, like, tensors)?;
    let rope = &like.config.rope;
    let divisors = rope.scaling.llama3_divisors(rope.theta, like.config.head_dim);
    if let Some(divisors) = &divisors {
        let shape = vec![divisors.len() as u64];
        infos.insert(0, TensorInfo { name: "rope_freqs.weight".into(), dtype: DType::F32, shape });
    }
    let mut writer = GgufWriter::new(out, &metadata, &infos)?;
    for divisor in divisors.into_iter().flatten() {
        writer.write(&divisor.to_le_bytes())?;
    }
    Ok(writer)
}

impl Sink for GgufSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(self.writer.write(bytes)?)
    }

    fn draft(&mut self) -> &mut Draft {
        self.writer.get_mut()
    }

    fn end(self: Box<Self>) -> Result<Draft, StoreError> {
        Ok(self.writer.finish()?)
    }
}

fn metadata(out: &Path, like: &Model, tensors: &[TensorInfo]) -> Result<Metadata, StoreError> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(like.config.architecture.family().gguf.into()));
    like.origin.to_gguf(&mut metadata);
    metadata.set("general.file_type", Value::U32(file_type(tensors)));
    if tensors.iter().any(|t| t.dtype.is_quantized()) {
        metadata.set("general.quantization_version", Value::U32(2));
    }
    if let Some(tokenizer) = &like.tokenizer {
        let path = out.display().to_string();
        tokenizer.to_gguf(like.config.vocab, &mut metadata).map_err(|source| StoreError::Tokenizer { path, source })?;
    }
    if let Some(template) = &like.template {
        metadata.set("tokenizer.chat_template", Value::String(template.source().into()));
    }
    // After the tokenizer: the model's own end tokens win over those that the tokenizer names.
    like.config.to_gguf(&mut metadata);
    if let Some(dtype) = vector_dtype(tensors) {
        metadata.set(VECTOR_DTYPE, Value::String(dtype.name()));
    }
    Ok(metadata)
}

/// The type that all 1-D tensors share before they are widened.
fn vector_dtype(tensors: &[TensorInfo]) -> Option<DType> {
    let mut vectors = tensors.iter().filter(|t| t.shape.len() == 1);
    let first = vectors.next().filter(|t| is_widened(t.dtype, &t.shape))?.dtype;
    vectors.all(|t| t.dtype == first).then_some(first)
}

/// `general.file_type`: llama.cpp's number for the type that most matrices have (`llama_ftype` in llama.h).
fn file_type(tensors: &[TensorInfo]) -> u32 {
    let mut counts = BTreeMap::new();
    tensors.iter().filter(|t| t.shape.len() > 1).for_each(|t| *counts.entry(t.dtype).or_insert(0usize) += 1);
    match counts.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype) {
        Some(DType::F16) => 1,
        Some(DType::Q4_0) => 2,
        Some(DType::Q4_1) => 3,
        Some(DType::Q8_0) => 7,
        Some(DType::Q5_0) => 8,
        Some(DType::Q5_1) => 9,
        Some(DType::Q2_K) => 10,
        Some(DType::Q3_K) => 12,
        Some(DType::Q4_K) => 15,
        Some(DType::Q5_K) => 17,
        Some(DType::Q6_K) => 18,
        Some(DType::IQ4_NL) => 25,
        Some(DType::IQ4_XS) => 30,
        Some(DType::BF16) => 32,
        _ => 0,
    }
}
