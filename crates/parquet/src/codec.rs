//! Decompression of pages, bounded by the size that is expected.

use parquet::basic::Compression;
use std::io::Read;

/// Appends what `bytes` decompress to; it must be `size` bytes.
pub(crate) fn decompress(codec: Compression, bytes: &[u8], size: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let failed = |e: &dyn std::fmt::Display| format!("a page could not be decompressed: {e}");
    // A page without values can be empty, whatever the codec.
    let got = match codec {
        _ if size == 0 => 0,
        Compression::UNCOMPRESSED => {
            out.extend_from_slice(bytes);
            bytes.len()
        }
        Compression::SNAPPY => {
            let told = snap::raw::decompress_len(bytes).map_err(|e| failed(&e))?;
            if told != size {
                return Err(format!("a page tells of {size} bytes and has {told}"));
            }
            out.resize(start + size, 0);
            snap::raw::Decoder::new().decompress(bytes, &mut out[start..]).map_err(|e| failed(&e))?
        }
        Compression::ZSTD(_) => {
            out.resize(start + size, 0);
            zstd::bulk::decompress_to_buffer(bytes, &mut out[start..]).map_err(|e| failed(&e))?
        }
        Compression::LZ4_RAW => {
            out.resize(start + size, 0);
            lz4_flex::block::decompress_into(bytes, &mut out[start..]).map_err(|e| failed(&e))?
        }
        Compression::GZIP(_) => {
            let reader = flate2::read::MultiGzDecoder::new(bytes);
            reader.take(size as u64 + 1).read_to_end(out).map_err(|e| failed(&e))?
        }
        other => return Err(format!("it is compressed by {other}, which is not read; use zstd, snappy, gzip or lz4_raw")),
    };
    if got == size { Ok(()) } else { Err(format!("a page tells of {size} bytes and has {got}")) }
}
