//! Repetition levels, as far as to see whether a record begins in a page, and that there are as many as the page has values: the decoder
//! would look for missing ones for ever.

use parquet::{basic::Encoding, column::page::Page};

/// Whether a data page of a column with this highest repetition level has a level 0: there a record begins.
pub(crate) fn begins_record(page: &Page, max_rep_level: i16) -> Result<bool, String> {
    let levels = match page {
        Page::DataPageV2 { buf, rep_levels_byte_len, .. } => buf.get(..*rep_levels_byte_len as usize),
        Page::DataPage { buf, rep_level_encoding: Encoding::RLE, .. } => buf.split_first_chunk().and_then(|(len, rest)| {
            let len = u32::from_le_bytes(*len);
            rest.get(..len as usize)
        }),
        _ => return Err("its levels are not encoded as RLE".into()),
    };
    let width = 16 - max_rep_level.leading_zeros();
    let levels = levels.ok_or("a page ends within its levels")?;
    has_zero(levels, width, page.num_values()).ok_or_else(|| "a page's levels are damaged".into())
}

/// Runs of one value, and groups of eight values of `width` bits each (Parquet's "RLE / bit-packing hybrid"); `None` if they are fewer
/// than `values`.
fn has_zero(mut bytes: &[u8], width: u32, mut values: u32) -> Option<bool> {
    let mut zero = false;
    while values > 0 {
        let head = varint(&mut bytes)?;
        if head & 1 == 0 {
            let (value, rest) = bytes.split_at_checked(width.div_ceil(8) as usize)?;
            zero |= head >> 1 > 0 && value.iter().all(|byte| *byte == 0);
            bytes = rest;
            values = values.saturating_sub(head >> 1);
        } else {
            // The last group may be cut.
            let len = ((head >> 1) as usize).saturating_mul(width as usize).min(bytes.len());
            let (packed, rest) = bytes.split_at(len);
            let bits = (packed.len() as u32).saturating_mul(8);
            let count = (bits / width).min(values);
            zero |= (0..count).any(|n| (n * width..(n + 1) * width).all(|bit| packed[bit as usize / 8] >> (bit % 8) & 1 == 0));
            bytes = rest;
            values -= count;
        }
    }
    Some(zero)
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 127) << shift;
        if *byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::has_zero;

    /// From the format's own examples: runs, and 0 to 7 in three bits each.
    #[test]
    fn runs_and_groups() {
        assert_eq!(has_zero(&[0x08, 1, 0x02, 0], 1, 5), Some(true));
        assert_eq!(has_zero(&[0x08, 1, 0x02, 0], 1, 4), Some(false), "the zero lies behind the last value");
        assert_eq!(has_zero(&[0x03, 0x88, 0xc6, 0xfa], 3, 8), Some(true));
        assert_eq!(has_zero(&[0x03, 0x89, 0xc6, 0xfa], 3, 8), Some(false));
        assert_eq!(has_zero(&[0x03, 0xff], 1, 8), Some(false));
        assert_eq!(has_zero(&[0x03, 0xf7], 1, 8), Some(true));
        assert_eq!(has_zero(&[0x08, 0], 1, 5), None, "a level is missing");
        assert_eq!(has_zero(&[0x80], 1, 8), None);
        assert_eq!(has_zero(&[0x08], 1, 8), None);
    }
}
