//! Archives and compressed streams: every member is scanned like a file.

pub(crate) mod compressed;
pub(crate) mod tar;
pub(crate) mod zip;

use crate::{
    content::Item,
    rules::{ARCHIVE_PATH, Findings},
};

/// Members of one archive that are looked at.
const MAX_MEMBERS: u64 = 100_000;

/// Reports a member name that leads out of the folder the archive is unpacked into.
fn check_path(findings: &mut Findings, item: &Item<'_>, member: &str, offset: u64) {
    let escapes = member.split(['/', '\\']).any(|part| part == "..")
        || member.starts_with(['/', '\\'])
        || member.as_bytes().get(1) == Some(&b':')
        || member.contains('\0');
    if escapes {
        let message = format!("the member {member:?} would be unpacked outside of its folder");
        findings.add(&ARCHIVE_PATH, &item.name, Some(offset), message);
    }
}
