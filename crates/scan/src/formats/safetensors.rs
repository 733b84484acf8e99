//! safetensors: the header against itself and the length of the file.

use crate::{
    content::Item,
    rules::{Findings, SAFETENSORS_MALFORMED},
};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::{collections::HashSet, fmt, io};

/// As in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// Whether `head` begins like a safetensors file of `len` bytes.
pub(crate) fn is_header(head: &[u8], len: u64) -> bool {
    let Some((length, json)) = head.split_first_chunk::<8>() else { return false };
    let header = u64::from_le_bytes(*length);
    (2..=MAX_HEADER.min(len.saturating_sub(8))).contains(&header) && matches!(json, [b'{', b'"' | b'}' | b' ', ..])
}

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let mut length = [0; 8];
    let len = item.source.len();
    if len >= 8 {
        item.source.read_at(0, &mut length)?;
    }
    let header_len = u64::from_le_bytes(length);
    if len < 8 || header_len > MAX_HEADER || header_len > len - 8 {
        let message = format!("its header would have {header_len} bytes, the file has {len}");
        findings.add(&SAFETENSORS_MALFORMED, &item.name, Some(0), message);
        return Ok(());
    }
    let json = item.source.read_up_to(8, header_len as usize)?;
    // A member that was cut while decompressing has a header, but its true length is not known.
    let data_len = item.whole.then_some(len - 8 - header_len);
    let checked = serde_json::from_slice::<Tensors>(&json).map_err(|e| e.to_string()).and_then(|t| t.check(data_len));
    if let Err(reason) = checked {
        findings.add(&SAFETENSORS_MALFORMED, &item.name, Some(8), format!("its header contradicts the format: {reason}"));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

struct Tensors(Vec<(String, Entry)>);

impl Tensors {
    fn check(mut self, data_len: Option<u64>) -> Result<(), String> {
        self.0.sort_by_key(|(_, e)| e.data_offsets);
        let mut end = 0;
        for (name, entry) in &self.0 {
            let [from, to] = entry.data_offsets;
            let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            let bits = elements.and_then(|n| n.checked_mul(bits_of(&entry.dtype).unwrap_or(0)));
            let Some(bits) = bits else { return Err(format!("tensor {name:?}: shape {:?} overflows", entry.shape)) };
            if from > to || from != end {
                return Err(format!("tensor {name:?}: bytes {from}..{to} leave a hole or overlap, {end} was expected"));
            }
            if bits_of(&entry.dtype).is_some() && bits.div_ceil(8) != to - from {
                return Err(format!("tensor {name:?}: {} {:?} does not fill {} bytes", entry.dtype, entry.shape, to - from));
            }
            end = to;
        }
        match data_len {
            Some(len) if len != end => Err(format!("tensors end at {end}, the data at {len}")),
            _ => Ok(()),
        }
    }
}

/// Bits of an element; unknown types are not judged.
fn bits_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Tensors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
        let (mut tensors, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{key:?} occurs twice")));
            }
            if key == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                tensors.push((key, map.next_value()?));
            }
        }
        Ok(Tensors(tensors))
    }
}
