//! FLOE (C2SP FLOE.md): AES-256-GCM, HKDF-Expand-SHA-384, key commitment, random access.
//!
//! A stream is a header (74 bytes) and segments of one length, the last of which may be shorter:
//!
//! ```text
//! header  = 00 00 ‖ u32be segment length ‖ u32be 32 ‖ IV (32) ‖ header tag (32)
//! segment = u32be (ffffffff | whole length, if last) ‖ IV (12) ‖ ciphertext ‖ tag (16)
//! ```
//!
//! The segment functions take a position and whether it is the last one on trust: who reads at random has to know the
//! stream's whole length from somewhere authentic, and derive both from it ([`Layout`]).

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use std::ops::Range;
use zeroize::Zeroizing;

/// Bytes of a header.
pub const HEADER_LEN: usize = 74;
/// Bytes that a segment has beyond its plaintext.
pub const OVERHEAD: usize = 32;
/// Longest segment accepted, so that a header cannot ask for much memory.
pub const MAX_SEGMENT_LEN: u32 = 1 << 24;

const IV_LEN: usize = 32;
const PREFIX_LEN: usize = 10 + IV_LEN;
const NONCE_LEN: usize = 12;
/// Length and nonce, before the ciphertext.
const HEAD_LEN: usize = 4 + NONCE_LEN;
const NOT_LAST: u32 = u32::MAX;
const MAX_SEGMENTS: u64 = 1 << 40;
/// 2^20 segments are sealed under one key.
const ROTATION_BITS: u32 = 20;

/// Seals and opens the segments of one stream.
pub struct Cipher {
    segment_len: usize,
    rotation_bits: u32,
    prefix: [u8; PREFIX_LEN],
    aad: Vec<u8>,
    message_key: hmac::Key,
    first_key: LessSafeKey,
}

impl Cipher {
    /// A new stream under `key`, bound to `aad`, and its header. `segment_len` counts the [`OVERHEAD`].
    pub fn start(key: &[u8; 32], aad: &[u8], segment_len: u32) -> Result<(Self, [u8; HEADER_LEN]), FloeError> {
        let mut prefix = params(segment_len)?;
        getrandom::fill(&mut prefix[10..]).map_err(|_| FloeError::Backend)?;
        let key = hmac::Key::new(hmac::HMAC_SHA384, key);
        let mut header = [0; HEADER_LEN];
        header[..PREFIX_LEN].copy_from_slice(&prefix);
        header[PREFIX_LEN..].copy_from_slice(&kdf(&key, &prefix, b"HEADER_TAG:", aad)[..32]);
        Ok((Self::derive(&key, prefix, aad, ROTATION_BITS)?, header))
    }

    /// Opens the stream that starts with `header`. Fails unless key and `aad` are those it was made with.
    pub fn open(key: &[u8; 32], aad: &[u8], header: &[u8; HEADER_LEN]) -> Result<Self, FloeError> {
        Self::open_rotating(key, aad, header, ROTATION_BITS)
    }

    fn open_rotating(key: &[u8; 32], aad: &[u8], header: &[u8; HEADER_LEN], bits: u32) -> Result<Self, FloeError> {
        let (prefix, tag) = header.split_first_chunk::<PREFIX_LEN>().ok_or(FloeError::Header)?;
        let segment_len = u32::from_be_bytes([prefix[2], prefix[3], prefix[4], prefix[5]]);
        if prefix[..10] != params(segment_len)?[..10] {
            return Err(FloeError::Header);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA384, key);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&kdf(&key, prefix, b"HEADER_TAG:", aad)[..32], tag)) {
            return Err(FloeError::Key);
        }
        Self::derive(&key, *prefix, aad, bits)
    }

    fn derive(key: &hmac::Key, prefix: [u8; PREFIX_LEN], aad: &[u8], rotation_bits: u32) -> Result<Self, FloeError> {
        let message_key = hmac::Key::new(hmac::HMAC_SHA384, &*kdf(key, &prefix, b"MESSAGE_KEY:", aad));
        let first_key = segment_key(&message_key, &prefix, aad, 0)?;
        let segment_len = u32::from_be_bytes([prefix[2], prefix[3], prefix[4], prefix[5]]) as usize;
        Ok(Self { segment_len, rotation_bits, prefix, aad: aad.to_vec(), message_key, first_key })
    }

    /// The stream's random IV, which names it.
    pub fn iv(&self) -> &[u8] {
        &self.prefix[10..]
    }

    /// Bytes of a segment that is not the last.
    pub fn segment_len(&self) -> usize {
        self.segment_len
    }

    /// Bytes of plaintext in a segment that is not the last.
    pub fn plain_len(&self) -> usize {
        self.segment_len - OVERHEAD
    }

    /// Seals `plaintext` as the segment at `position` into `out`, which is longer by [`OVERHEAD`].
    pub fn seal(&self, position: u64, last: bool, plaintext: &[u8], out: &mut [u8]) -> Result<(), FloeError> {
        if out.len() != plaintext.len() + OVERHEAD {
            return Err(FloeError::Backend);
        }
        let prefix = self.length_field(position, last, out.len())?;
        let (head, body) = out.split_at_mut(HEAD_LEN);
        let (ciphertext, tag) = body.split_at_mut(plaintext.len());
        head[..4].copy_from_slice(&prefix.to_be_bytes());
        getrandom::fill(&mut head[4..]).map_err(|_| FloeError::Backend)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[4..]).map_err(|_| FloeError::Backend)?;
        let aad = segment_aad(position, last);
        self.with_key(position, |key| {
            key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &[], tag).map_err(|_| FloeError::Backend)
        })
    }

    /// Opens `segment`, which stands at `position`, into `out`, which is shorter by [`OVERHEAD`].
    pub fn open_segment(&self, position: u64, last: bool, segment: &[u8], out: &mut [u8]) -> Result<(), FloeError> {
        if segment.len() != out.len() + OVERHEAD {
            return Err(FloeError::Segment(position));
        }
        let (head, body) = segment.split_at(HEAD_LEN);
        let (ciphertext, tag) = body.split_at(out.len());
        if head[..4] != self.length_field(position, last, segment.len())?.to_be_bytes() {
            return Err(FloeError::Segment(position));
        }
        let nonce = Nonce::try_assume_unique_for_key(&head[4..]).map_err(|_| FloeError::Backend)?;
        let aad = segment_aad(position, last);
        self.with_key(position, |key| {
            key.open_separate_gather(nonce, aad, ciphertext, tag, out).map_err(|_| FloeError::Segment(position))
        })
    }

    fn length_field(&self, position: u64, last: bool, len: usize) -> Result<u32, FloeError> {
        let fits = position < MAX_SEGMENTS && if last { len <= self.segment_len } else { len == self.segment_len };
        match (fits, last) {
            (false, _) => Err(FloeError::Segment(position)),
            (true, true) => Ok(len as u32),
            (true, false) => Ok(NOT_LAST),
        }
    }

    /// Runs `job` with the key of the segment at `position`; the first 2^20 segments' key is kept.
    fn with_key<T>(&self, position: u64, job: impl FnOnce(&LessSafeKey) -> Result<T, FloeError>) -> Result<T, FloeError> {
        match (position >> self.rotation_bits) << self.rotation_bits {
            0 => job(&self.first_key),
            masked => job(&segment_key(&self.message_key, &self.prefix, &self.aad, masked)?),
        }
    }
}

/// Where the segments of a stream with a known plaintext length lie.
#[derive(Clone, Copy)]
pub struct Layout {
    plain_len: u64,
    step: u64,
}

impl Layout {
    /// `plain_len` bytes of plaintext in segments of `segment_len` bytes; `None` if that is more than FLOE allows.
    pub fn new(plain_len: u64, segment_len: usize) -> Option<Self> {
        let step = segment_len.checked_sub(OVERHEAD).filter(|s| *s > 0)? as u64;
        let layout = Self { plain_len, step };
        (layout.segments() <= MAX_SEGMENTS && plain_len.checked_add(layout.segments() * OVERHEAD as u64 + 74).is_some())
            .then_some(layout)
    }

    /// Bytes of plaintext in the stream.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// How many segments there are; at least one.
    pub fn segments(&self) -> u64 {
        self.plain_len.div_ceil(self.step).max(1)
    }

    /// Bytes of the whole stream with its header.
    pub fn stream_len(&self) -> u64 {
        HEADER_LEN as u64 + self.plain_len + self.segments() * OVERHEAD as u64
    }

    /// The segment that holds the plaintext byte `at`, and that byte's place in it.
    pub fn locate(&self, at: u64) -> (u64, usize) {
        (at / self.step, (at % self.step) as usize)
    }

    /// Where the segment at `position` lies in the stream, and whether it is the last.
    pub fn segment(&self, position: u64) -> (Range<u64>, bool) {
        let last = position + 1 == self.segments();
        let start = HEADER_LEN as u64 + position * (self.step + OVERHEAD as u64);
        let end = if last { self.stream_len() } else { start + self.step + OVERHEAD as u64 };
        (start..end, last)
    }
}

/// Seals `plaintext` as one stream. For what fits in memory.
pub fn seal(key: &[u8; 32], aad: &[u8], segment_len: u32, plaintext: &[u8]) -> Result<Vec<u8>, FloeError> {
    let (cipher, header) = Cipher::start(key, aad, segment_len)?;
    let layout = Layout::new(plaintext.len() as u64, cipher.segment_len()).ok_or(FloeError::Header)?;
    let mut stream = vec![0; layout.stream_len() as usize];
    let (head, mut rest) = stream.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header);
    let mut plain = plaintext;
    for position in 0..layout.segments() {
        let (chunk, plain_rest) = plain.split_at(plain.len().min(cipher.plain_len()));
        let (out, out_rest) = rest.split_at_mut(chunk.len() + OVERHEAD);
        cipher.seal(position, out_rest.is_empty(), chunk, out)?;
        (plain, rest) = (plain_rest, out_rest);
    }
    Ok(stream)
}

/// Opens a whole stream in memory. For what fits in memory.
pub fn open(key: &[u8; 32], aad: &[u8], stream: &[u8]) -> Result<Zeroizing<Vec<u8>>, FloeError> {
    open_rotating(key, aad, stream, ROTATION_BITS)
}

fn open_rotating(key: &[u8; 32], aad: &[u8], stream: &[u8], bits: u32) -> Result<Zeroizing<Vec<u8>>, FloeError> {
    let (header, mut rest) = stream.split_first_chunk::<HEADER_LEN>().ok_or(FloeError::Truncated)?;
    let cipher = Cipher::open_rotating(key, aad, header, bits)?;
    let mut plaintext = Zeroizing::new(vec![0; rest.len()]);
    let mut filled = 0;
    for position in 0.. {
        let (segment, left) = rest.split_at(rest.len().min(cipher.segment_len()));
        let length = segment.len().checked_sub(OVERHEAD).ok_or(FloeError::Truncated)?;
        if left.is_empty() && segment[..4] == NOT_LAST.to_be_bytes() {
            return Err(FloeError::Truncated);
        }
        cipher.open_segment(position, left.is_empty(), segment, &mut plaintext[filled..filled + length])?;
        filled += length;
        if left.is_empty() {
            break;
        }
        rest = left;
    }
    plaintext.truncate(filled);
    Ok(plaintext)
}

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FloeError {
    /// The parameters are not those of FLOE with AES-256-GCM and SHA-384, or the segments too long or too short.
    #[error("no FLOE stream, or one with segments longer than {MAX_SEGMENT_LEN} bytes")]
    Header,
    /// The header tag does not match.
    #[error("the key or the place does not belong to this stream, or its header was changed")]
    Key,
    /// The segment at this position is not authentic there.
    #[error("segment {0} was changed, moved or repeated")]
    Segment(u64),
    /// The stream ends before its last segment.
    #[error("the stream is cut")]
    Truncated,
    /// No random bytes, or the caller's buffers do not fit.
    #[error("the cipher failed")]
    Backend,
}

fn params(segment_len: u32) -> Result<[u8; PREFIX_LEN], FloeError> {
    if segment_len <= OVERHEAD as u32 || segment_len > MAX_SEGMENT_LEN {
        return Err(FloeError::Header);
    }
    let mut prefix = [0; PREFIX_LEN];
    prefix[2..6].copy_from_slice(&segment_len.to_be_bytes());
    prefix[6..10].copy_from_slice(&(IV_LEN as u32).to_be_bytes());
    Ok(prefix)
}

/// HKDF-Expand-SHA-384 with one block of output, of which callers take the part they need.
fn kdf(key: &hmac::Key, prefix: &[u8; PREFIX_LEN], purpose: &[u8], aad: &[u8]) -> Zeroizing<[u8; 48]> {
    let mut context = hmac::Context::with_key(key);
    [prefix, purpose, aad, &[1]].iter().for_each(|part| context.update(part));
    let mut out = Zeroizing::new([0; 48]);
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn segment_key(message_key: &hmac::Key, prefix: &[u8; PREFIX_LEN], aad: &[u8], masked: u64) -> Result<LessSafeKey, FloeError> {
    let mut purpose = *b"DEK:\0\0\0\0\0\0\0\0";
    purpose[4..].copy_from_slice(&masked.to_be_bytes());
    let bytes = kdf(message_key, prefix, &purpose, aad);
    UnboundKey::new(&AES_256_GCM, &bytes[..32]).map(LessSafeKey::new).map_err(|_| FloeError::Backend)
}

fn segment_aad(position: u64, last: bool) -> Aad<[u8; 9]> {
    let mut aad = [0; 9];
    aad[..8].copy_from_slice(&position.to_be_bytes());
    aad[8] = u8::from(last);
    Aad::from(aad)
}

#[cfg(test)]
mod tests;
