//! From one container to the other, or from one float type to another.

use crate::{Destination, Model, ModelWriter, StoreError, Target, digest::chunks};
use coffer_checkpoint::{DType, TensorInfo, blocks};

/// Writes `model` to `out` as `target`, and gives the bytes of its weights there. With `dtype` (F32, F16 or BF16) every weight gets that type, rounded to nearest
/// even, but for norms that are stored less 1, which stay F32; without, every weight keeps its own, except that the other container's blocks become F32.
/// `progress` is called with the bytes read so far and altogether.
///
/// # Errors
/// Returns [`StoreError`] if `out` exists, `dtype` is no float, or reading or writing fails; then nothing is left behind.
pub fn convert<'a>(
    model: &Model,
    out: impl Into<Destination<'a>>,
    target: Target,
    dtype: Option<DType>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, StoreError> {
    let new_type = |info: &TensorInfo| match dtype.filter(|_| !model.config.is_less_one(&info.shape)) {
        Some(dtype) => dtype,
        // What the other container has no room for.
        None if info.dtype.is_quantized() && info.dtype.is_compressed() != (target == Target::HuggingFace) => DType::F32,
        None => info.dtype,
    };
    if let Some(dtype) = dtype.filter(|d| !matches!(d, DType::F32 | DType::F16 | DType::BF16)) {
        return Err(StoreError::Sequence {
            tensor: "every tensor".into(),
            reason: format!("{dtype} is none of F32, F16 and BF16"),
        });
    }
    let source = &*model.weights;
    let infos: Vec<TensorInfo> =
        source.index().iter().map(|(_, info)| TensorInfo { dtype: new_type(info), ..info.clone() }).collect();
    let mut writer = ModelWriter::create(out, target, model, &infos)?;
    let (mut done, mut bytes) = (0, Vec::new());
    for ((id, info), new) in source.index().iter().zip(&infos) {
        for rows in chunks(info) {
            bytes.resize((info.row_bytes().unwrap_or(0) * (rows.end - rows.start)) as usize, 0);
            source.read_rows(id, rows, &mut bytes)?;
            match new.dtype == info.dtype {
                true => writer.write(&bytes)?,
                false => writer.write(&recode(info, &bytes, new.dtype)?)?,
            }
            done += bytes.len() as u64;
            progress(done, model.weight_bytes);
        }
    }
    writer.finish()
}

/// The same numbers in another float type.
fn recode(info: &TensorInfo, bytes: &[u8], dtype: DType) -> Result<Vec<u8>, StoreError> {
    let refuse = |reason: String| StoreError::Sequence { tensor: info.name.clone(), reason };
    let mut numbers = vec![0f32; bytes.len() / info.dtype.block_bytes() * info.dtype.block_len()];
    blocks::decode(info.dtype, bytes, &mut numbers).map_err(|e| refuse(e.to_string()))?;
    Ok(match dtype {
        DType::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        other => return Err(refuse(format!("{other} is no float type"))),
    })
}
