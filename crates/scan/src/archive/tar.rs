//! tar: PyTorch's oldest format, and archives of models.
//!
//! Source: POSIX.1-2001 pax and GNU tar headers.

use super::{MAX_MEMBERS, check_path};
use crate::{
    content::{self, Item},
    rules::{ARCHIVE_MALFORMED, ARCHIVE_PATH, Findings, LIMIT, SPECIAL_FILE},
    source::Window,
};
use std::io;

const BLOCK: u64 = 512;
/// Longest extended header that is read.
const MAX_EXTENDED: u64 = 1 << 20;

/// Whether `head` is a tar header: 512 bytes whose checksum is right.
pub(crate) fn is_header(head: &[u8]) -> bool {
    head.len() as u64 == BLOCK && head[0] != 0 && number(&head[148..156]) == Some(checksum(head))
}

pub(crate) fn scan(findings: &mut Findings, item: &Item<'_>) -> io::Result<()> {
    let (mut at, mut members) = (0, 0);
    let mut extended = Extended::default();
    while at + BLOCK <= item.source.len() {
        let head = item.source.read_up_to(at, BLOCK as usize)?;
        if head.iter().all(|&b| b == 0) {
            // A reader that ignores end marks would go on, and so does this one.
            at += BLOCK;
            continue;
        }
        members += 1;
        if members > MAX_MEMBERS {
            findings.add(&LIMIT, &item.name, Some(at), format!("more than {MAX_MEMBERS} members; the rest was not judged"));
            return Ok(());
        }
        let size = extended.size.take().or_else(|| number(&head[124..136]));
        let window = size.and_then(|size| Window::new(item.source, at + BLOCK, size));
        let (Some(size), Some(window), true) = (size, window, number(&head[148..156]) == Some(checksum(&head))) else {
            let message = "a damaged tar header, or a member longer than the file; the rest was not judged";
            findings.add(&ARCHIVE_MALFORMED, &item.name, Some(at), message.to_owned());
            return Ok(());
        };
        match head[156] {
            b'L' | b'K' | b'x' | b'g' => {
                extended.read(&item.source.read_up_to(at + BLOCK, size.min(MAX_EXTENDED) as usize)?, head[156])
            }
            kind => {
                let name = extended.name.take().unwrap_or_else(|| header_name(&head));
                let link = extended.link.take().unwrap_or_else(|| c_string(&head[157..257]));
                check_path(findings, item, &name, at);
                match kind {
                    b'0' | 0 | b'7' => content::scan(findings, &item.member(&name, &window, true))?,
                    b'1' | b'2' => check_link(findings, item, &name, &link, at),
                    b'5' => {}
                    _ => {
                        let message = format!("the member {name:?} is of tar type {:?}, not a file", char::from(kind));
                        findings.add(&SPECIAL_FILE, &item.name, Some(at), message);
                    }
                }
            }
        }
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    Ok(())
}

fn check_link(findings: &mut Findings, item: &Item<'_>, name: &str, target: &str, at: u64) {
    if target.starts_with('/') || target.split('/').any(|part| part == "..") {
        let message = format!("the member {name:?} is a link to {target:?}, outside of its folder");
        findings.add(&ARCHIVE_PATH, &item.name, Some(at), message);
    }
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Extended {
    fn read(&mut self, data: &[u8], kind: u8) {
        match kind {
            b'L' => self.name = Some(c_string(data)),
            b'K' => self.link = Some(c_string(data)),
            _ => {
                // Records are "LENGTH KEY=VALUE\n".
                for record in data.split(|&b| b == b'\n') {
                    let text = String::from_utf8_lossy(record);
                    let Some((key, value)) = text.split_once(' ').and_then(|(_, pair)| pair.split_once('=')) else { continue };
                    match key {
                        "path" => self.name = Some(value.to_owned()),
                        "linkpath" => self.link = Some(value.to_owned()),
                        "size" => self.size = value.parse().ok(),
                        _ => {}
                    }
                }
            }
        }
    }
}

fn header_name(head: &[u8]) -> String {
    let (name, prefix) = (c_string(&head[..100]), c_string(&head[345..500]));
    let ustar = &head[257..262] == b"ustar";
    if ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

fn c_string(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Sum of the bytes of the header, its checksum taken as spaces.
fn checksum(head: &[u8]) -> u64 {
    let field = |i: usize| (148..156).contains(&i);
    head.iter().enumerate().map(|(i, &b)| if field(i) { 32 } else { u64::from(b) }).sum()
}

/// Octal digits, or GNU's base 256.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest.iter().try_fold(0u64, |n, &b| n.checked_mul(256)?.checked_add(u64::from(b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    let digits = text.split(['\0', ' ']).next()?;
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}
