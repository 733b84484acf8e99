//! zip and tar, written by hand so that they can lie.

use coffer_scan::{Report, Severity, scan_bytes};
use proptest::prelude::*;

const SYSTEM: &[u8] = b"cos\nsystem\n(S'true'\ntR.";

/// A stored member, and what each of its two headers says.
#[derive(Clone)]
struct Member {
    name: &'static str,
    local_name: &'static str,
    flags: u16,
    method: u16,
    crc: u32,
    data: Vec<u8>,
    listed: bool,
}

fn member(name: &'static str, data: &[u8]) -> Member {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    Member { name, local_name: name, flags: 0, method: 0, crc: crc.sum(), data: data.to_vec(), listed: true }
}

fn zip(members: &[Member]) -> Vec<u8> {
    let (mut out, mut directory, mut listed) = (Vec::new(), Vec::new(), 0u16);
    for m in members {
        let at = out.len() as u32;
        let fields = |name: &str| {
            let mut f = Vec::new();
            f.extend(m.flags.to_le_bytes());
            f.extend(m.method.to_le_bytes());
            f.extend([0; 4]);
            f.extend(m.crc.to_le_bytes());
            f.extend((m.data.len() as u32).to_le_bytes());
            f.extend((m.data.len() as u32).to_le_bytes());
            f.extend((name.len() as u16).to_le_bytes());
            f.extend([0; 2]);
            f
        };
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(fields(m.local_name));
        out.extend(m.local_name.as_bytes());
        out.extend(&m.data);
        if m.listed {
            listed += 1;
            directory.extend(b"PK\x01\x02\x14\0\x14\0");
            directory.extend(fields(m.name));
            directory.extend([0; 10]);
            directory.extend(at.to_le_bytes());
            directory.extend(m.name.as_bytes());
        }
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(listed.to_le_bytes());
    out.extend(listed.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

fn rules(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|f| f.rule.as_str()).collect()
}

fn assert_rules(bytes: &[u8], expected: &[&str]) {
    let report = scan_bytes("a.bin", bytes);
    assert_eq!(rules(&report), expected, "{:#?}", report.findings);
}

#[test]
fn members_are_scanned_whatever_they_are_called() {
    assert_rules(&zip(&[member("archive/version", b"3\n"), member("archive/data/0", &[7; 64])]), &[]);
    assert_rules(&zip(&[member("archive/data.pkl", SYSTEM)]), &["pickle-dangerous-global"]);
    assert_rules(&zip(&[member("readme.txt", SYSTEM)]), &["pickle-dangerous-global"]);
    assert_rules(&zip(&[member("a.zip", &zip(&[member("b", SYSTEM)]))]), &["pickle-dangerous-global"]);
    let report = scan_bytes("a.bin", &zip(&[member("archive/data.pkl", SYSTEM)]));
    assert_eq!(report.findings[0].file, "a.bin!archive/data.pkl");
}

#[test]
fn headers_that_disagree_are_refused() {
    let honest = member("data.pkl", b"N.");
    assert_rules(&zip(&[Member { local_name: "datap.kl", ..honest.clone() }]), &["archive-mismatch"]);
    let mut size = zip(std::slice::from_ref(&honest));
    size[18] ^= 1;
    assert_rules(&size, &["archive-mismatch"]);
    let mut method = zip(std::slice::from_ref(&honest));
    method[8] = 8;
    assert_rules(&method, &["archive-mismatch"]);
    assert_rules(&zip(&[honest.clone(), honest.clone()]), &["archive-mismatch"]);
}

#[test]
fn hidden_and_shared_members_are_refused() {
    let hidden = Member { listed: false, ..member("data.pkl", SYSTEM) };
    assert_rules(&zip(&[member("a", b"N."), hidden]), &["archive-mismatch", "pickle-dangerous-global"]);
    // A second entry that points to the first member.
    let mut twice = zip(&[member("a", b"N."), member("b", b"N.")]);
    let second = twice.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    twice[second + 42..second + 46].fill(0);
    assert!(rules(&scan_bytes("a.bin", &twice)).contains(&"archive-mismatch"));
}

#[test]
fn flags_hide_nothing() {
    let flagged = |flags| zip(&[Member { flags, ..member("data.pkl", SYSTEM) }]);
    assert_rules(&flagged(1), &["archive-fake-encryption", "pickle-dangerous-global"]);
    assert_rules(&flagged(0x20), &["archive-odd-flags", "pickle-dangerous-global"]);
    assert_rules(&flagged(0x40), &["archive-odd-flags", "pickle-dangerous-global"]);
    // Really encrypted: the bytes do not have the checksum.
    assert_rules(&zip(&[Member { flags: 1, crc: 5, ..member("a", &[9; 27]) }]), &["archive-encrypted"]);
}

#[test]
fn bad_checksums_and_methods_hide_nothing() {
    assert_rules(&zip(&[Member { crc: 5, ..member("data.pkl", SYSTEM) }]), &["archive-checksum", "pickle-dangerous-global"]);
    assert_rules(&zip(&[Member { method: 14, ..member("data.pkl", SYSTEM) }]), &["scan-limit"]);
    assert_rules(
        &zip(&[Member { method: 8, ..member("data.pkl", b"\xff\xff\xff") }]),
        &["archive-malformed", "archive-checksum"],
    );
}

#[test]
fn paths_out_of_the_folder_are_refused() {
    for name in ["../a", "/a", "a/../../b", "\\a", "..\\a", "C:\\a", "a\0b"] {
        assert_rules(&zip(&[member(name, b"")]), &["archive-path"]);
    }
}

#[test]
fn archives_are_found_by_their_end() {
    let inner = zip(&[member("data.pkl", SYSTEM)]);
    assert_rules(
        &[b"GIF89a; hello".as_slice(), &inner].concat(),
        &["unknown-content", "archive-mismatch", "pickle-dangerous-global"],
    );
    let mut tail = inner.clone();
    let end = tail.len() - 2;
    tail[end..].copy_from_slice(&3u16.to_le_bytes());
    assert_rules(&[tail, b"end".to_vec()].concat(), &["pickle-dangerous-global"]);
}

#[test]
fn two_end_records_are_refused() {
    let (one, two) = (zip(&[member("a", b"N.")]), zip(&[]));
    let mut both = one.clone();
    let end = both.len() - 2;
    both[end..].copy_from_slice(&(two.len() as u16).to_le_bytes());
    both.extend(&two);
    assert!(scan_bytes("a.bin", &both).worst() == Some(Severity::Unsafe));
}

#[test]
fn sixty_four_bit_archives_are_read_and_must_agree() {
    let narrow = zip(&[member("data.pkl", SYSTEM)]);
    let (body, end) = narrow.split_at(narrow.len() - 22);
    let (size, start) =
        (u32::from_le_bytes([end[12], end[13], end[14], end[15]]), u32::from_le_bytes([end[16], end[17], end[18], end[19]]));
    let wide = |at: u64, start: u64| {
        let mut out = body.to_vec();
        out.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        for n in [1, 1, u64::from(size), start] {
            out.extend(n.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(at.to_le_bytes());
        out.extend(b"\x01\0\0\0");
        out.extend(end);
        out
    };
    assert_rules(&wide(body.len() as u64, start.into()), &["pickle-dangerous-global"]);
    for lie in [wide(7, start.into()), wide(body.len() as u64, 0)] {
        assert!(rules(&scan_bytes("a.bin", &lie)).contains(&"archive-malformed"));
    }
}

#[test]
fn without_directory_the_headers_are_followed() {
    let whole = zip(&[member("a", b"N."), member("data.pkl", SYSTEM)]);
    assert_rules(&whole[..whole.len() - 30], &["archive-malformed", "archive-mismatch", "pickle-dangerous-global"]);
}

#[test]
fn archives_in_archives_have_an_end() {
    let mut bytes = zip(&[member("x", SYSTEM)]);
    for _ in 0..6 {
        bytes = zip(&[member("x", &bytes)]);
    }
    assert_rules(&bytes, &["scan-limit"]);
}

#[test]
fn every_cut_and_flipped_bit_is_survived() {
    for whole in seeds() {
        for cut in 0..whole.len() {
            scan_bytes("a.bin", &whole[..cut]);
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            scan_bytes("a.bin", &flipped);
        }
    }
}

proptest! {
    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        for mut bytes in seeds() {
            for (at, value) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            scan_bytes("a.bin", &bytes);
        }
    }
}

fn seeds() -> [Vec<u8>; 2] {
    let two = [member("a", b"N."), member("data.pkl", SYSTEM)];
    [zip(&two), [tar("pickle", b'0', "", SYSTEM), tar("b", b'2', "c", b"")].concat()]
}

/// One tar member.
fn tar(name: &str, kind: u8, link: &str, data: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    head[156] = kind;
    head[157..157 + link.len()].copy_from_slice(link.as_bytes());
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|&b| u32::from(b)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = head.to_vec();
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[test]
fn tar_members_are_scanned() {
    let file = |name, data: &[u8]| tar(name, b'0', "", data);
    assert_rules(&[file("a", b"N."), vec![0; 1024]].concat(), &[]);
    assert_rules(&[file("sys_info", b"N."), file("pickle", SYSTEM)].concat(), &["pickle-dangerous-global"]);
    assert_rules(&[file("pickle", b"\x80\x02(")].concat(), &["pickle-broken"]);
    assert_rules(&file("a.pt", &zip(&[member("version", b"3")])), &[]);
    // Behind the end mark, too.
    assert_rules(&[file("a", b"N."), vec![0; 1024], file("b", SYSTEM)].concat(), &["pickle-dangerous-global"]);
}

#[test]
fn tar_paths_links_and_devices_are_reported() {
    assert_rules(&tar("../a", b'0', "", b""), &["archive-path"]);
    assert_rules(&tar("a", b'2', "/etc/passwd", b""), &["archive-path"]);
    assert_rules(&tar("a", b'1', "../b", b""), &["archive-path"]);
    assert_rules(&tar("a", b'2', "b", b""), &[]);
    assert_rules(&tar("a", b'3', "", b""), &["special-file"]);
    assert_rules(&[tar("x", b'x', "", b"14 path=../ab\n"), tar("a", b'0', "", b"")].concat(), &["archive-path"]);
    assert_rules(&[tar("x", b'L', "", b"../long\0"), tar("a", b'0', "", b"")].concat(), &["archive-path"]);
}

#[test]
fn damaged_tar_is_refused() {
    let mut long = tar("a", b'0', "", &[1; 600]);
    long.truncate(900);
    assert_rules(&long, &["archive-malformed"]);
    let mut second = [tar("a", b'0', "", b"N."), tar("b", b'0', "", b"N.")].concat();
    second[1024] ^= 1;
    assert_rules(&second, &["archive-malformed"]);
}
