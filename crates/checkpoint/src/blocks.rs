//! Block formats, one scalar decoder each: the reference every kernel is compared with.
//!
//! Layouts are ggml's (`ggml-common.h`), and of the types of compressed-tensors our own. Scales are little-endian binary16, there
//! binary32. Every product and sum below is one rounded
//! f32 operation in the order written, so that the values equal ggml's and gguf-py's to the bit.

use crate::DType;

/// Decodes `bytes`, whole blocks of `dtype`, into `out`.
///
/// # Errors
/// Returns [`BlockError`] if `dtype` holds no real numbers or the lengths do not match.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    let (block_bytes, block_len) = (dtype.block_bytes(), dtype.block_len());
    let count = bytes.len() / block_bytes;
    if count.checked_mul(block_len) != Some(out.len()) || !bytes.len().is_multiple_of(block_bytes) {
        return Err(BlockError::Length { dtype, bytes: bytes.len(), elements: out.len() });
    }
    let mut blocks = |decode: fn(&[u8], &mut [f32])| {
        for (block, values) in bytes.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_len)) {
            decode(block, values);
        }
    };
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        DType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::F8_E4M3 => each(bytes, out, |[b]| e4m3(b)),
        DType::Q8_0 => blocks(q8_0),
        DType::Q4_0 => blocks(q4_0),
        DType::Q4_1 => blocks(q4_1),
        DType::Q5_0 => blocks(q5_0),
        DType::Q5_1 => blocks(q5_1),
        DType::Q4_K => blocks(q4_k),
        DType::Q5_K => blocks(q5_k),
        DType::Q6_K => blocks(q6_k),
        DType::Q3_K => blocks(q3_k),
        DType::Q2_K => blocks(q2_k),
        DType::IQ4_NL => blocks(iq4_nl),
        DType::IQ4_XS => blocks(iq4_xs),
        DType::W4_G32 | DType::W4_G128 => blocks(w4),
        DType::W4Z_G32 | DType::W4Z_G128 => blocks(w4z),
        DType::W8_ROW => blocks(w8),
        DType::F8_ROW => blocks(f8),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => return Err(BlockError::NotReal(dtype)),
    }
    Ok(())
}

/// Numbers that stand by themselves.
fn each<const B: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; B]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = value(bytes);
    }
}

/// The 6-bit scale and 6-bit minimum of sub-block `j` (of eight) in the 12 packed bytes of a Q4_K or Q5_K block.
///
/// Bytes 0..4 hold the low six bits of scales 0..4, bytes 4..8 those of minimums 0..4; their top two bits are the top
/// bits of scales and minimums 4..8, whose low nibbles lie in bytes 8..12.
pub fn scale_min_k4(j: usize, packed: &[u8; 12]) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | ((packed[j - 4] >> 6) << 4), (low >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// The 6-bit scale of sub-block `j` (of sixteen) in the 12 packed bytes of a Q3_K block, less its offset of 32.
///
/// The low nibbles of bytes 0..8 belong to scales 0..8 and the high ones to scales 8..16; bit pair `j / 4` of byte
/// `8 + j % 4` is the top of scale `j`.
pub fn scale_k3(j: usize, packed: &[u8; 12]) -> i8 {
    let low = packed[j % 8] >> (4 * (j / 8)) & 15;
    let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// The sixteen values that the codes of IQ4_NL and IQ4_XS stand for: steps grow away from zero, as weights thin out.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Why blocks could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The type is no float and no quantized block.
    #[error("{0} holds no real numbers")]
    NotReal(DType),
    /// Byte and element counts contradict each other.
    #[error("{bytes} bytes of {dtype} do not hold {elements} elements")]
    Length {
        /// Element type.
        dtype: DType,
        /// Bytes given.
        bytes: usize,
        /// Elements wanted.
        elements: usize,
    },
}

/// The number that an E4M3 byte stands for: sign, four bits of exponent with a bias of 7, three of fraction; no infinity, and NaN
/// where all seven are set (Micikevicius et al., "FP8 Formats for Deep Learning", 2022).
pub fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (byte >> 3 & 15, f32::from(byte & 7));
    let magnitude = match exponent {
        0 => fraction / 512.0,
        15 if byte & 7 == 7 => f32::NAN,
        _ => (1.0 + fraction / 8.0) * f32::from_bits((u32::from(exponent) + 120) << 23),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// d: f32, then nibbles in order, the low one first, offset by 8.
fn w4(block: &[u8], out: &mut [f32]) {
    nibbles(f32_at(block, 0), 8, &block[4..], out);
}

/// d: f32, the zero point, then nibbles as in W4.
fn w4z(block: &[u8], out: &mut [f32]) {
    nibbles(f32_at(block, 0), block[4], &block[5..], out);
}

fn nibbles(d: f32, zero: u8, bytes: &[u8], out: &mut [f32]) {
    let value = |code: u8| f32::from(i16::from(code) - i16::from(zero)) * d;
    for (pair, &byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = value(byte & 15);
        pair[1] = value(byte >> 4);
    }
}

/// d: f32, then 32 signed codes.
fn w8(block: &[u8], out: &mut [f32]) {
    let d = f32_at(block, 0);
    for (value, &code) in out.iter_mut().zip(&block[4..36]) {
        *value = f32::from(code as i8) * d;
    }
}

/// d: f32, then 32 numbers in E4M3.
fn f8(block: &[u8], out: &mut [f32]) {
    let d = f32_at(block, 0);
    for (value, &code) in out.iter_mut().zip(&block[4..36]) {
        *value = e4m3(code) * d;
    }
}

/// d: f16, then 32 signed codes.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (value, &code) in out.iter_mut().zip(&block[2..34]) {
        *value = f32::from(code as i8) * d;
    }
}

/// d: f16, then 16 bytes: the low nibbles are elements 0..16, the high ones 16..32, offset by 8.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (i, &byte) in block[2..18].iter().enumerate() {
        out[i] = f32::from((byte & 15) as i8 - 8) * d;
        out[i + 16] = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

/// d, m: f16, then 16 bytes of nibbles as in Q4_0, without offset.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (i, &byte) in block[4..20].iter().enumerate() {
        out[i] = f32::from(byte & 15) * d + m;
        out[i + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// d: f16, then the fifth bits of elements 0..32 in a u32, then nibbles as in Q4_0; offset 16.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (i, &byte) in block[6..22].iter().enumerate() {
        out[i] = f32::from(with_fifth_bit(byte & 15, high, i) as i8 - 16) * d;
        out[i + 16] = f32::from(with_fifth_bit(byte >> 4, high, i + 16) as i8 - 16) * d;
    }
}

/// d, m: f16, then fifth bits and nibbles as in Q5_0, without offset.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, &byte) in block[8..24].iter().enumerate() {
        out[i] = f32::from(with_fifth_bit(byte & 15, high, i)) * d + m;
        out[i + 16] = f32::from(with_fifth_bit(byte >> 4, high, i + 16)) * d + m;
    }
}

fn with_fifth_bit(nibble: u8, high: u32, element: usize) -> u8 {
    nibble | ((((high >> element) & 1) as u8) << 4)
}

/// d, dmin: f16; 12 bytes of scales and minimums; 128 bytes of nibbles: of each 32 bytes the low nibbles are one
/// sub-block of 32 and the high nibbles the next.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let scales = k_scales(block);
    for (pair, codes) in block[16..144].chunks_exact(32).enumerate() {
        for (half, shift) in [(0, 0), (1, 4)] {
            let (d, m) = scales[2 * pair + half];
            let sub_block = &mut out[64 * pair + 32 * half..][..32];
            for (value, &byte) in sub_block.iter_mut().zip(codes) {
                *value = d * f32::from((byte >> shift) & 15) - m;
            }
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `j` of byte `l` belongs to element `l` of sub-block `j`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let scales = k_scales(block);
    let high = &block[16..48];
    for (pair, codes) in block[48..176].chunks_exact(32).enumerate() {
        for (half, shift) in [(0, 0), (1, 4)] {
            let j = 2 * pair + half;
            let (d, m) = scales[j];
            for (l, value) in out[32 * j..][..32].iter_mut().enumerate() {
                let code = ((codes[l] >> shift) & 15) | (((high[l] >> j) & 1) << 4);
                *value = d * f32::from(code) - m;
            }
        }
    }
}

/// The eight effective scales and minimums of a Q4_K or Q5_K block.
fn k_scales(block: &[u8]) -> [(f32, f32); 8] {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[4..16]);
    std::array::from_fn(|j| {
        let (scale, min) = scale_min_k4(j, &packed);
        (d * f32::from(scale), dmin * f32::from(min))
    })
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16 elements), d: f16; offset 32.
///
/// In each half of 128 elements, element `32·q + l` takes its nibble from byte `32·(q % 2) + l` (low for q < 2, high
/// above) and its top two bits from bits `2q` of byte `l` of the half's 32 bytes.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 208);
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + l] >> (2 * quarter) & 3;
        let scale = block[192 + i / 16] as i8;
        *value = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
    }
}

/// 32 bytes of third bits, 64 bytes of bit pairs, 12 bytes of scales (one per 16 elements), d: f16; offset 4.
///
/// In each half of 128 elements, element `32·q + l` takes its bit pair from bits `2q` of byte `l` of the half's 32 bytes,
/// and its third bit from bit `4·half + q` of byte `l` of the first 32.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 108);
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[96..108]);
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let low = block[32 + 32 * half + l] >> (2 * quarter) & 3;
        let high = block[l] >> (4 * half + quarter) & 1;
        *value = d * f32::from(scale_k3(i / 16, &packed)) * f32::from((low | high << 2) as i8 - 4);
    }
}

/// 16 bytes, each the scale (low nibble) and minimum (high) of 16 elements; 64 bytes of bit pairs as in Q3_K; d, dmin: f16.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (i, value) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let code = block[16 + 32 * half + l] >> (2 * quarter) & 3;
        let packed = block[i / 16];
        *value = d * f32::from(packed & 15) * f32::from(code) - dmin * f32::from(packed >> 4);
    }
}

/// As Q4_0, with codes that stand for [`IQ4_VALUES`].
fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (i, &byte) in block[2..18].iter().enumerate() {
        out[i] = d * f32::from(IQ4_VALUES[usize::from(byte & 15)]);
        out[i + 16] = d * f32::from(IQ4_VALUES[usize::from(byte >> 4)]);
    }
}

/// d: f16; the top two bits of eight scales in a u16; their nibbles; eight sub-blocks of nibbles as in IQ4_NL. Scales have
/// six bits and the offset 32.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (j, (out, codes)) in out.chunks_exact_mut(32).zip(block[8..136].chunks_exact(16)).enumerate() {
        let scale = block[4 + j / 2] >> (4 * (j % 2)) & 15 | ((high >> (2 * j) & 3) as u8) << 4;
        let d = d * f32::from(scale as i8 - 32);
        for (i, &byte) in codes.iter().enumerate() {
            out[i] = d * f32::from(IQ4_VALUES[usize::from(byte & 15)]);
            out[i + 16] = d * f32::from(IQ4_VALUES[usize::from(byte >> 4)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scales put into the blocks: one, subnormal, largest, zero of both signs, and an ordinary one.
    const SCALES: [u16; 10] = [0x3C00, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x0000, 0x8000, 0x2E66];

    /// Type, where its f16 scales lie, FNV-1a of the 20 decoded blocks and their first values: computed by gguf-py 0.19's
    /// `dequantize` from the same bytes.
    const GOLDEN: [(DType, &[usize], u64, [u32; 2]); 12] = [
        (DType::Q8_0, &[0], 0x8aa2_dcec_9841_effe, [0xc150_0000, 0x4130_0000]),
        (DType::Q4_0, &[0], 0xbe32_e781_3528_a593, [0xc0a0_0000, 0x4040_0000]),
        (DType::Q4_1, &[0, 2], 0x02cc_dfeb_72c5_5ba0, [0x4160_0040, 0x40e0_0080]),
        (DType::Q5_0, &[0], 0x4623_0510_f183_18be, [0x4130_0000, 0x4140_0000]),
        (DType::Q5_1, &[0, 2], 0x4bc1_d02d_0550_e32a, [0x40c0_0080, 0x4180_0020]),
        (DType::Q4_K, &[0, 2], 0x9688_059e_6239_b788, [0x4389_ff94, 0x4237_fca1]),
        (DType::Q5_K, &[0, 2], 0xf6ad_77a3_a1d0_15a4, [0x442c_7fca, 0x444e_ffca]),
        (DType::Q6_K, &[208], 0x9ad2_3027_48e9_cd26, [0x449f_2000, 0xc459_c000]),
        (DType::Q3_K, &[108], 0x0737_8098_9ce4_cb52, [0x0000_0000, 0x41d0_0000]),
        (DType::Q2_K, &[80, 82], 0x153f_babc_523d_117c, [0x41cf_fec0, 0x414f_fd81]),
        (DType::IQ4_NL, &[0], 0xbf87_f2de_0c62_b9b7, [0xc282_0000, 0x4218_0000]),
        (DType::IQ4_XS, &[0], 0x5fec_6a76_5f7a_ea4a, [0xc425_0000, 0xc56e_2000]),
    ];

    #[test]
    fn equals_gguf_py_to_the_bit() {
        for (dtype, scales_at, digest, first) in GOLDEN {
            let mut bytes = xorshift(20 * dtype.block_bytes());
            for (i, block) in bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
                for (k, &at) in scales_at.iter().enumerate() {
                    block[at..at + 2].copy_from_slice(&SCALES[(i + 3 * k) % 10].to_le_bytes());
                }
            }
            let mut values = vec![0.0; 20 * dtype.block_len()];
            decode(dtype, &bytes, &mut values).unwrap();
            let bits: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!([values[0].to_bits(), values[1].to_bits()], first, "{dtype}");
            assert_eq!(fnv1a(&bits), digest, "{dtype}");
        }
    }

    #[test]
    fn plain_floats() {
        let mut out = [0.0];
        decode(DType::F32, &1.5f32.to_le_bytes(), &mut out).unwrap();
        assert_eq!(out, [1.5]);
        decode(DType::F16, &0x0001u16.to_le_bytes(), &mut out).unwrap();
        assert_eq!(out, [2f32.powi(-24)]);
        decode(DType::BF16, &0xC040u16.to_le_bytes(), &mut out).unwrap();
        assert_eq!(out, [-3.0]);
        decode(DType::F64, &0.1f64.to_le_bytes(), &mut out).unwrap();
        assert_eq!(out, [0.1]);
    }

    #[test]
    fn refuses_integers_and_wrong_lengths() {
        assert_eq!(decode(DType::I64, &[0; 8], &mut [0.0]), Err(BlockError::NotReal(DType::I64)));
        for (bytes, elements) in [(18, 31), (18, 64), (17, 32), (19, 32), (0, 1)] {
            let wrong = decode(DType::Q4_0, &vec![0; bytes], &mut vec![0.0; elements]);
            assert_eq!(wrong, Err(BlockError::Length { dtype: DType::Q4_0, bytes, elements }));
        }
    }

    fn xorshift(len: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut words = Vec::with_capacity(len + 8);
        while words.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words.extend_from_slice(&state.to_le_bytes());
        }
        words.truncate(len);
        words
    }

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}
