//! Names, marker and keys of a bundle's parts, as docs/spec/bundle.md has them.

use super::BundleError;
use crate::{
    memory,
    place::{self, Place},
};
use aws_lc_rs::hmac;
use std::{io, path::Path};
use zeroize::Zeroizing;

pub(super) const MARKER: &str = "coffer.bundle";
pub(super) const KEYS: &str = "keys";
pub(super) const MANIFEST: &str = "manifest";
pub(super) const DATA: &str = "data";
/// Bytes of a sealed segment. Measured: from 256 KiB on, speed is that of AES-GCM; smaller ones cost less at random.
pub(super) const SEGMENT_LEN: u32 = 256 << 10;

const MAGIC: &str = "coffer-bundle ";
const VERSION: &str = "1";

/// Names a bundle: public, random, bound into every stream.
pub(super) type BundleId = [u8; 16];

/// The 256-bit key that the recipients' age files carry.
pub(super) struct ContentKey(Box<Zeroizing<[u8; 32]>>);

impl ContentKey {
    pub(super) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let key = Self(Box::new(bytes));
        memory::lock(&**key.0);
        key
    }

    pub(super) fn generate() -> Result<Self, BundleError> {
        random().map(|bytes| Self::new(Zeroizing::new(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose: HKDF-Expand-SHA-384 of 32 bytes, info `coffer-bundle 1 ‹purpose›`.
    pub(super) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA384, self.bytes()));
        [MAGIC, VERSION, " ", purpose, "\u{1}"].iter().for_each(|part| context.update(part.as_bytes()));
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&context.sign().as_ref()[..32]);
        key
    }
}

/// What a part's stream is bound to.
pub(super) fn aad(id: &BundleId, part: &str) -> Vec<u8> {
    [MAGIC.as_bytes(), VERSION.as_bytes(), id, part.as_bytes()].concat()
}

pub(super) fn marker(id: &BundleId) -> String {
    format!("{MAGIC}{VERSION}\nid {}\n", hex::encode(id))
}

/// Whether `path` holds a marker of any version.
pub(super) fn has_marker(path: &Path) -> bool {
    place::at(path).and_then(|place| read_bounded(&*place, MARKER, 1024)).is_ok_and(|bytes| bytes.starts_with(MAGIC.as_bytes()))
}

/// Reads the marker; only its one canonical spelling is accepted.
pub(super) fn read_marker(place: &dyn Place, path: &Path) -> Result<BundleId, BundleError> {
    let not_a_bundle = || BundleError::NotABundle { path: path.display().to_string() };
    let bytes = read_bounded(place, MARKER, 1024).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidData => not_a_bundle(),
        _ => BundleError::io(path)(e),
    })?;
    let text = std::str::from_utf8(&bytes).ok().and_then(|t| t.strip_prefix(MAGIC)).ok_or_else(not_a_bundle)?;
    let (version, rest) = text.split_once('\n').ok_or_else(not_a_bundle)?;
    if version != VERSION {
        let found = version.chars().take(20).flat_map(char::escape_default).collect();
        return Err(BundleError::Version { path: path.display().to_string(), found });
    }
    let mut id = BundleId::default();
    let parsed = rest.strip_prefix("id ").and_then(|r| r.strip_suffix('\n')).map(|digits| hex::decode_to_slice(digits, &mut id));
    match parsed {
        Some(Ok(())) if marker(&id).as_bytes() == bytes => Ok(id),
        _ => Err(BundleError::tampered(path, MARKER)),
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], BundleError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| BundleError::Cipher("random bytes".into()))?;
    Ok(bytes)
}

/// The length to which `len` bytes are padded: at least 1024, else Padmé (Nikitin et al., PETS 2019), which adds at most
/// 6.3 % and leaves O(log log) bits of the length visible.
pub(super) fn padded(len: u64) -> Option<u64> {
    let len = len.max(1024);
    let exponent = len.ilog2();
    let mask = (1u64 << (exponent - exponent.ilog2() - 1)) - 1;
    Some(len.checked_add(mask)? & !mask)
}

/// The whole of a regular file that is not a link and has at most `most` bytes.
pub(super) fn read_bounded(place: &dyn Place, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let file = place.open(name)?;
    if file.len() > most {
        let what = format!("has {} bytes; at most {most} are read", file.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_follows_padme() {
        // From the definition: E = ⌊log2 L⌋, S = ⌊log2 E⌋ + 1, the last E − S bits zero, rounded up.
        let known = [
            (0, 1024),
            (1, 1024),
            (1024, 1024),
            (1025, 1088),
            (5000, 5120),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, (1 << 20) + (1 << 15)),
        ];
        for (len, expected) in known {
            assert_eq!(padded(len), Some(expected), "{len}");
        }
        assert_eq!(padded(2_200_000_000), Some(33 << 26));
        assert_eq!(padded(u64::MAX), None);
    }

    /// Computed with Python: `hmac.new(bytes(range(32)), b"coffer-bundle 1 stream\x01", "sha384").hexdigest()[:64]`.
    #[test]
    fn purposes_have_their_own_keys() {
        let key = ContentKey::new(Zeroizing::new(std::array::from_fn(|i| i as u8)));
        assert_eq!(hex::encode(*key.derive("stream")), "babc8200b1be9232d726479a6231cd5a80f373e1ddb6ff1c7fbf030104536ca7");
        assert_ne!(key.derive("stream"), key.derive("keys"));
    }
}
