//! What a file or member is, by its first bytes, and which scanner it goes to.

use crate::{
    archive::{compressed, tar, zip},
    formats::{code, gguf, hdf5, json, numpy, safetensors, template},
    pickle::{self, Belief},
    rules::{ARCHIVE_OPAQUE, Findings, LIMIT, UNKNOWN_CONTENT},
    source::Source,
};
use std::io;

/// Archives in archives are followed this deep.
const MAX_DEPTH: u32 = 4;

/// A file, or a member of an archive.
pub(crate) struct Item<'a> {
    /// Path, with `!member` for members.
    pub(crate) name: String,
    pub(crate) source: &'a dyn Source,
    /// Whether `source` holds all of it; a decompressed member may have been cut.
    pub(crate) whole: bool,
    depth: u32,
}

impl<'a> Item<'a> {
    pub(crate) fn file(name: &str, source: &'a dyn Source) -> Self {
        Self { name: name.to_owned(), source, whole: true, depth: 0 }
    }

    /// `member` of the archive `self`.
    pub(crate) fn member(&self, member: &str, source: &'a dyn Source, whole: bool) -> Self {
        Self { name: format!("{}!{member}", self.name), source, whole, depth: self.depth + 1 }
    }

    /// The name in lower case, without folders.
    pub(crate) fn base_name(&self) -> String {
        let path = self.name.rsplit('!').next().unwrap_or_default();
        path.rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase()
    }
}

/// Scans `item` and what it contains.
pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    if item.depth > MAX_DEPTH {
        findings.add(&LIMIT, &item.name, None, format!("archives nested more than {MAX_DEPTH} deep; unpack it and scan again"));
        return Ok(());
    }
    let head = item.source.read_up_to(0, 512)?;
    let format = recognize(item, &head)?;
    let judged = match &format {
        Format::Zip => zip::scan(findings, item).map(|()| Judged::Whole),
        Format::Tar => tar::scan(findings, item).map(|()| Judged::Whole),
        Format::Gzip => compressed::scan_gzip(findings, item).map(|()| Judged::Whole),
        Format::Zlib => compressed::scan_zlib(findings, item).map(|()| Judged::Whole),
        Format::Opaque(kind) => {
            let message = format!("{kind}, which the scanner cannot look into: unpack it and scan what it holds");
            findings.add(&ARCHIVE_OPAQUE, &item.name, Some(0), message);
            return Ok(());
        }
        Format::Numpy => numpy::scan(findings, item),
        Format::Gguf => gguf::scan(findings, item).map(|()| Judged::Header),
        Format::Safetensors => safetensors::scan(findings, item).map(|()| Judged::Header),
        Format::Hdf5 => hdf5::scan(findings, item).map(|()| Judged::Whole),
        Format::Other => scan_other(findings, item, &head).map(|()| Judged::Whole),
    }?;
    // Python finds a zip archive by its end, whatever comes before it; a tar archive may well end with one as its member.
    if !matches!(format, Format::Zip | Format::Tar) && zip::has_end(item.source)? {
        zip::scan(findings, item)?;
    }
    if !item.whole && judged == Judged::Whole {
        let message = "decompresses to more than the scanner reads; the rest was not judged: unpack it and scan again";
        findings.add(&LIMIT, &item.name, None, message.to_owned());
    }
    Ok(())
}

/// How much of an item had to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// All of it.
    Whole,
    /// Its header says all there is to know.
    Header,
}

enum Format {
    Zip,
    Tar,
    Gzip,
    Zlib,
    Opaque(&'static str),
    Numpy,
    Gguf,
    Safetensors,
    Hdf5,
    Other,
}

/// Containers that are recognized but not opened, by their first bytes.
const OPAQUE: [(&[u8], &str); 8] = [
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive"),
    (b"Rar!\x1A\x07", "a RAR archive"),
    (b"\xFD7zXZ\0", "an xz stream"),
    (b"BZh", "a bzip2 stream"),
    (b"\x28\xB5\x2F\xFD", "a Zstandard stream"),
    (b"\x04\x22\x4D\x18", "an LZ4 stream"),
    (b"MSCF\0\0\0\0", "a cabinet archive"),
    (b"hsqs", "a SquashFS image"),
];

fn recognize(item: &Item<'_>, head: &[u8]) -> io::Result<Format> {
    if let Some((_, kind)) = OPAQUE.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Ok(Format::Opaque(kind));
    }
    Ok(match head {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Format::Zip,
        [b'G', b'G', b'U', b'F', ..] => Format::Gguf,
        [0x1f, 0x8b, 8, ..] => Format::Gzip,
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Format::Numpy,
        [0x89, b'H', b'D', b'F', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Hdf5,
        _ if tar::is_header(head) => Format::Tar,
        _ if safetensors::is_header(head, item.source.len()) || item.base_name().ends_with(".safetensors") => Format::Safetensors,
        _ if compressed::is_zlib(item, head)? => Format::Zlib,
        _ => Format::Other,
    })
}

/// Names under which loaders expect a pickle.
const PICKLE_NAMES: [&str; 7] = [".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".dill", ".joblib"];

fn scan_other(findings: &mut Findings, item: &Item<'_>, head: &[u8]) -> io::Result<()> {
    let (base, before) = (item.base_name(), findings.len());
    if base.ends_with(".json") {
        json::scan(findings, item)?;
    } else if base.ends_with(".jinja") || base.ends_with(".jinja2") {
        template::scan_file(findings, item)?;
    }
    code::scan(findings, item, &base, head);
    // In PyTorch's oldest format, a tar archive, the pickle is called just that.
    let named = PICKLE_NAMES.iter().any(|end| base.ends_with(end)) || (base == "pickle" && item.depth > 0);
    let whole = pickle::scan(findings, item, 0, if named { Belief::Certain } else { Belief::Guess })?;
    // torch.load would hand such a file to the unpickler.
    if !whole && findings.len() == before && item.depth == 0 && base.ends_with(".bin") {
        let message = "named like PyTorch weights, but nothing that the scanner knows; it was not judged";
        findings.add(&UNKNOWN_CONTENT, &item.name, None, message.to_owned());
    }
    Ok(())
}
