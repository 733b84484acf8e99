//! compressed-tensors, vLLM's format: what is one tensor in canonical form lies in several there (github.com/vllm-project/compressed-tensors,
//! `src/compressed_tensors/compressors`).
//!
//! - Four bits: `weight_packed` I32 `[out, in / 8]`, column `i` at bit `4 (i mod 8)`, offset by 8; `weight_scale` `[out, groups]`;
//!   `weight_shape` I64 `[2]`; with zero points `weight_zero_point` I32 `[out / 8, groups]`, row `r` at bit `4 (r mod 8)`.
//! - Eight bits: `weight` I8 or F8_E4M3 `[out, in]`, `weight_scale` `[out, 1]`, or one for all rows.

use crate::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, blocks};
use serde_json::{Value, json};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

const WEIGHT: &str = "weight";
const PACKED: &str = "weight_packed";
const SCALE: &str = "weight_scale";
const SHAPE: &str = "weight_shape";
const ZERO: &str = "weight_zero_point";
/// Order in which columns take part where that is not their own.
const ORDER: &str = "weight_g_idx";

/// The tensors in which the file keeps `info`, in order; for other types it alone.
pub fn parts(info: &TensorInfo) -> Vec<TensorInfo> {
    let (rows, cols) = (info.rows(), info.cols());
    let part = |part: &str, dtype, shape: &[u64]| TensorInfo { name: of(&info.name, part), dtype, shape: shape.to_vec() };
    let groups = cols / info.dtype.block_len() as u64;
    match info.dtype {
        DType::W8_ROW => vec![part(WEIGHT, DType::I8, &[rows, cols]), part(SCALE, DType::BF16, &[rows, 1])],
        DType::F8_ROW => vec![part(WEIGHT, DType::F8_E4M3, &[rows, cols]), part(SCALE, DType::BF16, &[rows, 1])],
        dtype if dtype.is_compressed() => {
            let mut parts = vec![
                part(PACKED, DType::I32, &[rows, cols / 8]),
                part(SCALE, DType::BF16, &[rows, groups]),
                part(SHAPE, DType::I64, &[2]),
            ];
            if has_zero_points(dtype) {
                parts.push(part(ZERO, DType::I32, &[rows.div_ceil(8), groups]));
            }
            parts
        }
        _ => vec![info.clone()],
    }
}

/// The bytes of [`parts`], of all rows of `info` at once, one after the other.
pub fn split(info: &TensorInfo, canonical: &[u8]) -> Vec<u8> {
    let (block_bytes, by_row) = (info.dtype.block_bytes(), info.dtype.is_scaled_by_row());
    let codes_at = codes_at(info.dtype);
    let blocks = || canonical.chunks_exact(block_bytes);
    let groups = (info.cols() as usize / info.dtype.block_len()).max(1);
    let mut out: Vec<u8> = blocks().flat_map(|block| &block[codes_at..]).copied().collect();
    // Encoders choose scales that BF16 holds.
    let scales = blocks().step_by(if by_row { groups } else { 1 });
    out.extend(scales.flat_map(|block| [block[2], block[3]]));
    if !by_row {
        out.extend([info.rows(), info.cols()].iter().flat_map(|n| n.to_le_bytes()));
    }
    if has_zero_points(info.dtype) {
        let at = out.len();
        out.resize(at + (info.rows() as usize).div_ceil(8) * groups * 4, 0);
        for (i, block) in blocks().enumerate() {
            let (row, group) = (i / groups, i % groups);
            out[at + nibble_byte(row, group, groups)] |= block[4] << (4 * (row % 2));
        }
    }
    out
}

/// What `config.json` says of a model with these tensors; `None` if none is compressed.
pub fn quantization_config(tensors: &[TensorInfo]) -> Option<Value> {
    let module = |t: &TensorInfo| t.name.strip_suffix(".weight").map(str::to_owned);
    let mut groups: BTreeMap<DType, Vec<String>> = BTreeMap::new();
    for t in tensors.iter().filter(|t| t.dtype.is_compressed()) {
        groups.entry(t.dtype).or_default().extend(module(t));
    }
    let format = one_format(&groups)?;
    // A tied head has no tensor of its own, and is a module all the same.
    let kept = tensors.iter().filter(|t| !t.dtype.is_compressed() && t.shape.len() > 1).filter_map(module);
    let mut ignore: Vec<String> = kept.filter(|name| !name.ends_with("embed_tokens") && name != "lm_head").collect();
    ignore.push("lm_head".to_owned());
    let alone = groups.len() == 1;
    let described = groups.into_iter().enumerate().map(|(i, (dtype, modules))| {
        let targets = if alone { vec!["Linear".to_owned()] } else { modules };
        (format!("group_{i}"), group(dtype, &targets))
    });
    let config_groups: serde_json::Map<String, Value> = described.collect();
    Some(json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "config_groups": config_groups,
        "ignore": ignore,
        "kv_cache_scheme": null,
    }))
}

fn one_format(groups: &BTreeMap<DType, Vec<String>>) -> Option<&'static str> {
    let mut formats = groups.keys().map(|&dtype| format(dtype));
    let first = formats.next()?;
    Some(if formats.all(|f| f == first) { first } else { "mixed-precision" })
}

fn format(dtype: DType) -> &'static str {
    match dtype {
        DType::W8_ROW => "int-quantized",
        DType::F8_ROW => "float-quantized",
        _ => "pack-quantized",
    }
}

fn group(dtype: DType, targets: &[String]) -> Value {
    let by_row = dtype.is_scaled_by_row();
    let (bits, kind) = (if by_row { 8 } else { 4 }, if dtype == DType::F8_ROW { "float" } else { "int" });
    // Activations are rounded to eight bits as they come, a scale for each token.
    let activations = json!({"num_bits": 8, "type": kind, "symmetric": true, "strategy": "token", "dynamic": true});
    let (strategy, group_size) = if by_row { ("channel", Value::Null) } else { ("group", dtype.block_len().into()) };
    let symmetric = !has_zero_points(dtype);
    json!({
        "targets": targets,
        "weights": {
            "num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group_size, "dynamic": false,
        },
        "input_activations": if by_row { activations } else { Value::Null },
        "output_activations": null,
        "format": format(dtype),
    })
}

/// The tensors of a file with the parts of each put together.
pub struct Joined {
    source: Arc<dyn TensorSource>,
    index: TensorIndex,
    tensors: Vec<Parts>,
}

/// Why a tensor cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor {tensor}: {reason}")]
pub struct CompressedError {
    /// Name in the file.
    pub tensor: String,
    /// Why not.
    pub reason: String,
}

/// Where the parts of a tensor are.
enum Parts {
    Whole(TensorId),
    Split { codes: TensorId, scale: TensorId, zero: Option<TensorId> },
}

impl Joined {
    /// The tensors of `source`.
    ///
    /// # Errors
    /// Parts that do not fit together, or not as this release knows it.
    pub fn new(source: Arc<dyn TensorSource>) -> Result<Self, CompressedError> {
        let (mut infos, mut tensors) = (Vec::new(), Vec::new());
        for (id, info) in source.index().iter() {
            let refused = |reason: String| CompressedError { tensor: info.name.clone(), reason };
            let (module, part) = info.name.rsplit_once('.').unwrap_or(("", &info.name));
            let other = |part: &str| source.index().find(&format!("{module}.{part}"));
            let scale = other(SCALE);
            match (part, scale) {
                (SCALE | SHAPE | ZERO, Some(_)) if other(PACKED).or(other(WEIGHT)).is_some() => {}
                (PACKED | WEIGHT, Some(scale)) => {
                    if other(ORDER).is_some() {
                        return Err(refused(
                            "its columns are in an order of their own (weight_g_idx), which is not supported".into(),
                        ));
                    }
                    let zero = other(ZERO);
                    let joined = joined(&*source, info, scale, zero).map_err(refused)?;
                    infos.push(TensorInfo { name: format!("{module}.{WEIGHT}"), ..joined });
                    tensors.push(Parts::Split { codes: id, scale, zero: zero.filter(|_| part == PACKED) });
                }
                _ => {
                    infos.push(info.clone());
                    tensors.push(Parts::Whole(id));
                }
            }
        }
        let twice = |tensor| CompressedError { tensor, reason: "occurs twice".to_owned() };
        let index = TensorIndex::new(infos).map_err(twice)?;
        Ok(Self { source, index, tensors })
    }

    fn raw(&self, id: TensorId, rows: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let info = self.source.index().get(id);
        let bytes = info.row_bytes().and_then(|n| n.checked_mul(rows.end - rows.start)).and_then(|n| usize::try_from(n).ok());
        let none = || ReadError::Refused { name: info.name.clone(), reason: "its size exceeds this machine".into() };
        let mut raw = vec![0; bytes.ok_or_else(none)?];
        self.source.read_rows(id, rows, &mut raw)?;
        Ok(raw)
    }
}

impl TensorSource for Joined {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.index.get(t);
        let refused = |reason: &str| ReadError::Refused { name: info.name.clone(), reason: reason.to_owned() };
        let (codes, scale, zero) = match self.tensors.get(t.0) {
            Some(Parts::Whole(id)) => return self.source.read_rows(*id, rows, out),
            Some(Parts::Split { codes, scale, zero }) => (*codes, *scale, *zero),
            None => return Err(refused("there is no such tensor")),
        };
        let wanted = info.row_bytes().and_then(|n| n.checked_mul(rows.end.checked_sub(rows.start)?));
        if rows.end > info.rows() || wanted != Some(out.len() as u64) {
            return Err(refused("rows asked for are not there"));
        }
        let groups = info.cols() as usize / info.dtype.block_len();
        let scales = self.source.index().get(scale);
        let for_all = scales.elements() == Some(1);
        let raw = self.raw(scale, if for_all { 0..scales.rows() } else { rows.clone() })?;
        let mut d = vec![0.0; raw.len() / scales.dtype.block_bytes()];
        blocks::decode(scales.dtype, &raw, &mut d).map_err(|e| refused(&e.to_string()))?;
        let zeros = zero.map(|zero| self.raw(zero, rows.start / 8..rows.end.div_ceil(8))).transpose()?;
        let codes = self.raw(codes, rows.clone())?;
        let (block_bytes, at) = (info.dtype.block_bytes(), codes_at(info.dtype));
        for (i, (out, codes)) in out.chunks_exact_mut(block_bytes).zip(codes.chunks_exact(block_bytes - at)).enumerate() {
            let (row, group) = (i / groups, i % groups);
            let d = match (for_all, info.dtype.is_scaled_by_row()) {
                (true, _) => d[0],
                (_, true) => d[row],
                _ => d[i],
            };
            out[..4].copy_from_slice(&d.to_le_bytes());
            if let Some(zeros) = &zeros {
                let row = row + (rows.start % 8) as usize;
                out[4] = zeros[nibble_byte(row, group, groups)] >> (4 * (row % 2)) & 15;
            }
            out[at..].copy_from_slice(codes);
        }
        Ok(())
    }
}

/// What `codes`, with these scales and zero points, is in one; the name is still that of the codes. An error says why it is nothing.
fn joined(source: &dyn TensorSource, codes: &TensorInfo, scale: TensorId, zero: Option<TensorId>) -> Result<TensorInfo, String> {
    let scale = source.index().get(scale);
    let zero = zero.map(|zero| source.index().get(zero));
    let rows = codes.rows();
    if !matches!(scale.dtype, DType::F32 | DType::F16 | DType::BF16) || codes.shape.len() != 2 {
        return Err(format!("codes {} {:?} with scales {} are not supported", codes.dtype, codes.shape, scale.dtype));
    }
    let dtype = match codes.dtype {
        DType::I8 => DType::W8_ROW,
        DType::F8_E4M3 => DType::F8_ROW,
        DType::I32 if codes.name.ends_with(PACKED) => {
            let cols = codes.cols().saturating_mul(8);
            let group = cols / scale.cols().max(1);
            match (group, zero.is_some()) {
                (32, false) => DType::W4_G32,
                (128, false) => DType::W4_G128,
                (32, true) => DType::W4Z_G32,
                (128, true) => DType::W4Z_G128,
                _ => return Err(format!("groups of {group} columns are not supported; 32 and 128 are, of four bits each")),
            }
        }
        other => return Err(format!("codes of {other} are not supported")),
    };
    let cols = if codes.dtype == DType::I32 { codes.cols().saturating_mul(8) } else { codes.cols() };
    let shape = vec![rows, cols];
    let info = TensorInfo { name: codes.name.clone(), dtype, shape };
    let groups = cols / dtype.block_len() as u64;
    let fits = if dtype.is_scaled_by_row() {
        zero.is_none() && (scale.elements() == Some(1) || scale.shape == [rows, 1])
    } else {
        let zeros = zero.is_none_or(|zero| zero.dtype == DType::I32 && zero.shape == [rows.div_ceil(8), groups]);
        zeros && scale.shape == [rows, groups] && scale.elements() != Some(1)
    };
    if !fits || !cols.is_multiple_of(dtype.block_len() as u64) {
        return Err(format!("scales {:?} or zero points do not fit codes for {:?}", scale.shape, info.shape));
    }
    shape_says(source, &info).map(|()| info)
}

/// Checks what `weight_shape` says, where it is there.
fn shape_says(source: &dyn TensorSource, info: &TensorInfo) -> Result<(), String> {
    let Some(id) = source.index().find(&of(&info.name, SHAPE)) else { return Ok(()) };
    let shape = source.index().get(id);
    if shape.dtype != DType::I64 || shape.shape != [2] {
        return Err(format!("{} is {} {:?}", shape.name, shape.dtype, shape.shape));
    }
    let mut bytes = [0; 16];
    source.read_rows(id, 0..1, &mut bytes).map_err(|e| e.to_string())?;
    let said: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|&n| u64::from_le_bytes(n)).collect();
    if said == info.shape { Ok(()) } else { Err(format!("codes are {:?}, weight_shape says {said:?}", info.shape)) }
}

/// The name of a part of the module whose weight, or a part of it, is called `name`.
fn of(name: &str, part: &str) -> String {
    name.rsplit_once('.').map_or_else(|| part.to_owned(), |(module, _)| format!("{module}.{part}"))
}

const fn has_zero_points(dtype: DType) -> bool {
    matches!(dtype, DType::W4Z_G32 | DType::W4Z_G128)
}

/// Where the codes of a block begin: after the scale, and the zero point where there is one.
const fn codes_at(dtype: DType) -> usize {
    if has_zero_points(dtype) { 5 } else { 4 }
}

/// The byte that holds the zero point of a row and group, in rows of words of eight.
fn nibble_byte(row: usize, group: usize, groups: usize) -> usize {
    (row / 8 * groups + group) * 4 + row % 8 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryAt, SafetensorsFile, safetensors};

    const NAME: &str = "a.weight";

    fn info(dtype: DType) -> TensorInfo {
        TensorInfo { name: NAME.into(), dtype, shape: vec![19, 256] }
    }

    /// Blocks with scales that BF16 holds, the same in a row where that must be, and any codes.
    fn canonical(info: &TensorInfo) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..info.bytes().unwrap()).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let in_row = info.cols() as usize / info.dtype.block_len();
        for (i, block) in bytes.chunks_exact_mut(info.dtype.block_bytes()).enumerate() {
            let scale = if info.dtype.is_scaled_by_row() { i / in_row } else { i };
            block[..4].copy_from_slice(&(1.0 + scale as f32 / 64.0).to_le_bytes());
            block[..2].fill(0);
            if has_zero_points(info.dtype) {
                block[4] &= 15;
            }
        }
        bytes
    }

    fn bytes_of(tensors: &[TensorInfo], data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        safetensors::write_header(&mut bytes, tensors, &BTreeMap::new()).unwrap();
        bytes.extend_from_slice(data);
        bytes
    }

    fn opened(bytes: Vec<u8>) -> Option<Arc<dyn TensorSource>> {
        Some(Arc::new(SafetensorsFile::open("m", Arc::new(MemoryAt::new("m", bytes))).ok()?))
    }

    fn file(tensors: &[TensorInfo], data: &[u8]) -> Arc<dyn TensorSource> {
        opened(bytes_of(tensors, data)).unwrap()
    }

    fn rows(source: &dyn TensorSource, rows: Range<u64>) -> Vec<u8> {
        let id = source.index().find(NAME).unwrap();
        let mut out = vec![0; (source.index().get(id).row_bytes().unwrap() * (rows.end - rows.start)) as usize];
        source.read_rows(id, rows, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_split_is_put_together_in_any_pieces() {
        for dtype in DType::COMPRESSED {
            let info = info(dtype);
            let (bytes, row) = (canonical(&info), info.row_bytes().unwrap() as usize);
            let parts = parts(&info);
            let stored = split(&info, &bytes);
            assert_eq!(stored.len() as u64, parts.iter().map(|p| p.bytes().unwrap()).sum::<u64>(), "{dtype}");
            let shape = if dtype.is_scaled_by_row() { 0 } else { 16 };
            assert_eq!(stored.len() as u64, info.stored_bytes().unwrap() + shape, "{dtype}");
            let joined = Joined::new(file(&parts, &stored)).unwrap();
            assert_eq!(joined.index().get(TensorId(0)), &info);
            for (from, to) in [(0, 19), (0, 1), (3, 4), (7, 9), (8, 17), (18, 19), (5, 5)] {
                assert_eq!(rows(&joined, from..to), bytes[from as usize * row..to as usize * row], "{dtype} {from}..{to}");
            }
        }
    }

    /// By hand, after compressed-tensors' `pack_to_int32`.
    #[test]
    fn codes_and_zero_points_are_packed_as_there() {
        let info = TensorInfo { name: NAME.into(), dtype: DType::W4Z_G32, shape: vec![9, 32] };
        let block = |row: u8| [&2f32.to_le_bytes()[..], &[row + 1], &[0x10 + row; 16]].concat();
        let stored = split(&info, &(0..9).flat_map(block).collect::<Vec<u8>>());
        let codes: Vec<u8> = (0..9).flat_map(|row| [0x10 + row; 16]).collect();
        let (scales, shape) =
            ([0, 0x40].repeat(9), [[9u64, 32]].concat().iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
        let zeros = [0x21, 0x43, 0x65, 0x87, 0x09, 0, 0, 0];
        assert_eq!(stored, [&codes[..], &scales, &shape, &zeros].concat());
    }

    #[test]
    fn one_scale_serves_all_rows() {
        let part = |name: &str, dtype, shape: &[u64]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
        let parts = [part(NAME, DType::F8_E4M3, &[2, 32]), part("a.weight_scale", DType::F32, &[1])];
        let joined = Joined::new(file(&parts, &[&[0x38; 64][..], &0.5f32.to_le_bytes()].concat())).unwrap();
        let mut values = [0.0; 64];
        blocks::decode(DType::F8_ROW, &rows(&joined, 0..2), &mut values).unwrap();
        assert_eq!(values, [0.5; 64]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let part = |name: &str, dtype, shape: &[u64]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
        let refused = |parts: &[TensorInfo], expected: &str| {
            let bytes = parts.iter().map(|p| p.bytes().unwrap()).sum::<u64>() as usize;
            let CompressedError { tensor, reason } = Joined::new(file(parts, &vec![0; bytes])).err().unwrap();
            assert!(tensor.starts_with("a.weight") && reason.contains(expected), "{tensor}: {reason}");
        };
        let packed = part("a.weight_packed", DType::I32, &[4, 8]);
        let scale = |shape: &[u64]| part("a.weight_scale", DType::BF16, shape);
        refused(&[packed.clone(), scale(&[4, 1])], "groups of 64");
        refused(&[packed.clone(), scale(&[3, 2])], "do not fit");
        refused(&[packed.clone(), part("a.weight_scale", DType::I64, &[4, 2])], "not supported");
        refused(&[packed.clone(), scale(&[4, 2]), part("a.weight_shape", DType::I64, &[2])], "weight_shape says [0, 0]");
        refused(&[packed.clone(), scale(&[4, 2]), part("a.weight_zero_point", DType::I32, &[2, 2])], "do not fit");
        refused(&[packed, scale(&[4, 2]), part("a.weight_g_idx", DType::I32, &[64])], "order of their own");
        refused(&[part(NAME, DType::I8, &[4, 20]), scale(&[4, 1])], "do not fit");
        refused(&[part(NAME, DType::BF16, &[4, 32]), scale(&[4, 1])], "BF16");
    }

    #[test]
    fn any_change_of_a_byte_is_an_error_or_a_file_that_can_be_read() {
        let (mut read, mut refused) = (0, 0);
        for dtype in [DType::W4Z_G32, DType::F8_ROW] {
            let info = TensorInfo { shape: vec![9, 64], ..info(dtype) };
            let bytes = bytes_of(&parts(&info), &split(&info, &canonical(&info)));
            let header = bytes.len() - split(&info, &canonical(&info)).len();
            for at in 8..header {
                for flip in [1, 2, 4, 16] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    let Some(Ok(joined)) = opened(changed).map(Joined::new) else {
                        refused += 1;
                        continue;
                    };
                    for (id, info) in joined.index().iter() {
                        joined.read_rows(id, 0..info.rows(), &mut vec![0; info.bytes().unwrap() as usize]).unwrap();
                    }
                    read += 1;
                }
            }
        }
        assert!(read > 20 && refused > 1000, "{read} read, {refused} refused");
    }
}
