//! Which tensors of two models differ, and by how much.

use coffer_checkpoint::{ReadError, TensorId, TensorInfo, TensorSource, blocks};

/// A tensor of one model or both.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TensorDifference {
    /// Canonical name.
    pub name: String,
    /// Type in the first model, if it is there.
    pub first: Option<String>,
    /// Type in the second, if it is there.
    pub second: Option<String>,
    /// How they differ; nothing if one is missing or they differ in shape.
    #[serde(flatten)]
    pub values: Option<ValueDifference>,
}

/// How the numbers of two tensors differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct ValueDifference {
    /// Share of numbers that are not equal.
    pub changed: f64,
    /// Largest magnitude of a difference.
    pub largest: f64,
    /// Root of the sum of squared differences, over that of the first tensor's squares; infinite where those are 0.
    pub relative: f64,
}

impl TensorDifference {
    /// Whether all numbers are equal.
    pub fn is_none(&self) -> bool {
        self.values.is_some_and(|v| v.changed == 0.0)
    }
}

/// Bytes that are compared at a time.
const STEP: u64 = 4 << 20;

/// Compares all tensors, in the order of `first`, then those that only `second` has. `progress` is called with bytes of `first` done and
/// in all.
///
/// # Errors
/// A tensor cannot be read.
pub fn differences(
    first: &dyn TensorSource,
    second: &dyn TensorSource,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<TensorDifference>, ReadError> {
    let total = first.index().iter().filter_map(|(_, t)| t.bytes()).sum();
    let mut done = 0;
    let mut found = Vec::with_capacity(first.index().len());
    for (id, info) in first.index().iter() {
        let there = second.index().find(&info.name);
        let other = there.map(|t| second.index().get(t));
        let values = match there.filter(|_| other.is_some_and(|other| other.shape == info.shape)) {
            Some(there) => Some(values((first, id), (second, there), &mut |bytes| {
                done += bytes;
                progress(done, total);
            })?),
            None => None,
        };
        let (name, first, second) = (info.name.clone(), Some(info.dtype.name()), other.map(|other| other.dtype.name()));
        found.push(TensorDifference { name, first, second, values });
    }
    let only = second.index().iter().filter(|(_, info)| first.index().find(&info.name).is_none());
    found.extend(only.map(|(_, info)| TensorDifference {
        name: info.name.clone(),
        first: None,
        second: Some(info.dtype.name()),
        values: None,
    }));
    Ok(found)
}

/// Compares two tensors of one shape. Sums are in f64, in order.
fn values(
    (first, a): (&dyn TensorSource, TensorId),
    (second, b): (&dyn TensorSource, TensorId),
    tell: &mut dyn FnMut(u64),
) -> Result<ValueDifference, ReadError> {
    let info = first.index().get(a);
    let (mut changed, mut largest, mut squares, mut base, mut count) = (0u64, 0.0f64, 0.0f64, 0.0f64, 0u64);
    let step = (STEP / info.row_bytes().unwrap_or(STEP).max(1)).max(1);
    let mut from = 0;
    while from < info.rows() {
        let to = info.rows().min(from + step);
        let (here, there) = (read(first, a, from, to)?, read(second, b, from, to)?);
        for (&x, &y) in here.iter().zip(&there) {
            let (x, difference) = (f64::from(x), f64::from(x) - f64::from(y));
            changed += u64::from(difference != 0.0);
            largest = if difference.abs() > largest { difference.abs() } else { largest };
            squares += difference * difference;
            base += x * x;
        }
        count += here.len() as u64;
        tell(info.row_bytes().unwrap_or(0) * (to - from));
        from = to;
    }
    let relative = if squares == 0.0 { 0.0 } else { (squares / base).sqrt() };
    Ok(ValueDifference { changed: changed as f64 / count.max(1) as f64, largest, relative })
}

fn read(source: &dyn TensorSource, id: TensorId, from: u64, to: u64) -> Result<Vec<f32>, ReadError> {
    let info: &TensorInfo = source.index().get(id);
    let refused = |reason: String| ReadError::Refused { name: info.name.clone(), reason };
    let mut raw = vec![0; (info.row_bytes().unwrap_or(0) * (to - from)) as usize];
    source.read_rows(id, from..to, &mut raw)?;
    let mut values = vec![0.0; raw.len() / info.dtype.block_bytes() * info.dtype.block_len()];
    blocks::decode(info.dtype, &raw, &mut values).map_err(|e| refused(e.to_string()))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_checkpoint::{DType, MemoryAt, SafetensorsFile, safetensors};
    use std::{collections::BTreeMap, sync::Arc};

    fn model(tensors: &[(&str, &[u64], &[f32])]) -> SafetensorsFile {
        let info = |(name, shape, _): &(&str, &[u64], &[f32])| TensorInfo {
            name: (*name).to_owned(),
            dtype: DType::F32,
            shape: shape.to_vec(),
        };
        let mut bytes = Vec::new();
        safetensors::write_header(&mut bytes, &tensors.iter().map(info).collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        bytes.extend(tensors.iter().flat_map(|t| t.2).flat_map(|v| v.to_le_bytes()));
        SafetensorsFile::open("m", Arc::new(MemoryAt::new("m", bytes))).unwrap()
    }

    #[test]
    fn what_differs_is_told_by_name_and_size() {
        let first = model(&[("a", &[2, 2], &[3.0, 0.0, 4.0, 0.0]), ("b", &[2], &[1.0, 2.0]), ("c", &[1], &[0.0])]);
        let second = model(&[("a", &[2, 2], &[3.0, 1.0, 4.0, -2.0]), ("b", &[2], &[1.0, 2.0]), ("d", &[1], &[0.0])]);
        let found = differences(&first, &second, &mut |_, _| {}).unwrap();
        let a = found[0].values.unwrap();
        assert_eq!((a.changed, a.largest, a.relative), (0.5, 2.0, (5.0f64 / 25.0).sqrt()));
        assert!(found[1].is_none() && !found[0].is_none());
        let sides: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.first.is_some(), d.second.is_some())).collect();
        assert_eq!(sides, [("a", true, true), ("b", true, true), ("c", true, false), ("d", false, true)]);
    }

    #[test]
    fn other_shapes_have_no_values_to_compare() {
        let (first, second) = (model(&[("a", &[2, 1], &[1.0, 2.0])]), model(&[("a", &[2], &[1.0, 2.0])]));
        let found = differences(&first, &second, &mut |_, _| {}).unwrap();
        assert!(found[0].values.is_none() && !found[0].is_none());
    }
}
