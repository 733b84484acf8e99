//! Against a store in memory, and a web server that answers as it is told.

use crate::{
    RemoteError,
    address::{Address, Store},
    place::Remote,
    push::{Push, Pushed},
};
use coffer_seal::{Identity, Recipient, bundle, place::Place};
use object_store::{ObjectStoreExt, PutPayload, memory::InMemory, path::Path as Name};
use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    thread,
};

const PART: u64 = 4096;

fn sealed(folder: &Path, name: &str) -> PathBuf {
    let (source, bundle) = (folder.join(format!("{name}.bin")), folder.join(name));
    std::fs::write(&source, vec![7; 50_000]).unwrap();
    let to = Recipient::parse(&Identity::generate().recipient().unwrap()).unwrap();
    bundle::seal_path(&source, &bundle, &[to], &mut |_, _| {}).unwrap();
    bundle
}

fn memory() -> Address {
    let store = Store::writable(InMemory::new());
    Address { store, path: Name::from("models/x"), shown: "s3://bucket/models/x".into() }
}

fn push(path: &Path, to: &Address) -> Result<Pushed, RemoteError> {
    Push { path, to, part: PART }.run(&mut |_, _| {})
}

fn put(to: &Address, name: &str, bytes: &[u8]) {
    let name = Name::from(format!("models/x/{name}"));
    crate::runtime().unwrap().block_on(to.store.objects.put(&name, PutPayload::from(bytes.to_vec()))).unwrap();
}

fn names(place: &dyn Place, folder: &str) -> Vec<String> {
    place.list(folder).unwrap().unwrap().into_iter().map(|e| e.name).collect()
}

#[test]
fn what_is_pushed_is_there_byte_for_byte_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = sealed(folder.path(), "a");
    let to = memory();
    assert!(matches!(push(&bundle, &to).unwrap(), Pushed::Sent(n) if n > 50_000));
    assert!(!folder.path().join("a.push").exists());
    assert_eq!(push(&bundle, &to).unwrap(), Pushed::Already);
    let place = Remote(to);
    assert_eq!(names(&place, ""), ["coffer.bundle", "data", "keys", "manifest"]);
    assert_eq!(names(&place, "keys"), ["mac", "recipients", "x25519.age"]);
    for part in ["coffer.bundle", "data", "manifest", "keys/mac"] {
        let file = place.open(part).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, std::fs::read(bundle.join(part)).unwrap(), "{part}");
        assert_eq!(file.read_exact_at(file.len(), &mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn an_interrupted_push_leaves_no_bundle_and_sends_only_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = sealed(folder.path(), "a");
    let to = memory();
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut stop = |done, _| assert!(done < 6 * PART, "as if killed");
        Push { path: &bundle, to: &to, part: PART }.run(&mut stop)
    }));
    assert!(cut.is_err() && folder.path().join("a.push").exists());
    let length = std::fs::metadata(bundle.join("data")).unwrap().len();
    let place = Remote(to);
    assert!(names(&place, "").is_empty(), "half a bundle can be seen");
    let mut first = None;
    let sent = Push { path: &bundle, to: &place.0, part: PART }.run(&mut |done, _| first = first.or(Some(done))).unwrap();
    assert!(first.unwrap() >= 6 * PART);
    assert!(matches!(sent, Pushed::Sent(n) if n < length), "{sent:?} of {length}");
    assert_eq!(push(&bundle, &place.0).unwrap(), Pushed::Already);
}

#[test]
fn an_upload_that_the_server_forgot_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = sealed(folder.path(), "a");
    let marker = std::fs::read_to_string(bundle.join("coffer.bundle")).unwrap();
    let length = std::fs::metadata(bundle.join("data")).unwrap().len();
    for state in ["{", "{}"] {
        std::fs::write(folder.path().join("a.push"), state).unwrap();
        assert!(matches!(push(&bundle, &memory()).unwrap(), Pushed::Sent(n) if n > length), "{state} {marker}");
    }
}

#[test]
fn what_lies_there_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (sealed(folder.path(), "a"), sealed(folder.path(), "b"));
    let to = memory();
    push(&a, &to).unwrap();
    assert!(push(&b, &to).unwrap_err().to_string().contains("another bundle is there"));
    put(&to, "keys/mac", b"other");
    assert!(push(&a, &to).unwrap_err().to_string().contains("another keys/mac"));
    let to = memory();
    put(&to, "keys/ssh.age", b"left behind");
    assert!(push(&a, &to).unwrap_err().to_string().contains("keys/ssh.age lies there"));
    assert!(push(&folder.path().join("a.bin"), &memory()).unwrap_err().to_string().contains("no sealed bundle"));
}

#[test]
fn small_reads_in_sequence_become_few_requests_and_random_ones_touch_little() {
    let to = memory();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    put(&to, "data", &bytes);
    let file = Remote(to).open("data").unwrap();
    for (at, len) in [(0, 10), (10, 70_000), (2_999_999, 1), (5, 2_500_000), (70_010, 300_000), (1_000_000, 1), (0, 0)] {
        let mut out = vec![0; len];
        file.read_exact_at(at, &mut out).unwrap();
        assert_eq!(out, bytes[at as usize..at as usize + len], "{len} at {at}");
    }
    assert!(file.read_exact_at(2_999_999, &mut [0; 2]).is_err());
    assert!(file.read_exact_at(u64::MAX, &mut [0; 2]).is_err());
}

#[test]
fn bad_urls() {
    for (url, expected) in [
        ("ftp://host/a", "`ftp://` is not known"),
        ("s3:///a", "names no bucket"),
        ("s3://bucket", "names nothing in the bucket"),
        ("s3://bucket/", "names nothing in the bucket"),
        ("s3://bucket/a/../b", "not taken in a URL"),
        ("s3://bucket/a/%2E%2e/b", "not taken in a URL"),
        ("https://KEY:SECRET@host/a", "a user, a query"),
        ("https://host/a?sig=SECRET", "a user, a query"),
        ("http://example.invalid/a", "plain http"),
    ] {
        let error = Address::parse(url).err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains("SECRET"), "{url}: {error}");
    }
}

/// A web server that gives `answers` in turn, and the last one from then on; the URL of `x` on it.
fn server(answers: &[&str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let answers: Vec<String> = answers.iter().map(|a| a.replace('\n', "\r\n")).collect();
    thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let _ = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            // A client that has seen enough may be gone.
            let _ = stream.write_all(answers[at.min(answers.len() - 1)].as_bytes());
        }
    });
    url
}

const HEAD: &str = "HTTP/1.1 200 OK\nContent-Length: 99999\nETag: \"a\"\nConnection: close\n\n";

fn read(url: &str) -> io::Result<[u8; 4]> {
    let file = Remote::open(url).map_err(RemoteError::into_io)?.open("")?;
    let mut out = [0; 4];
    file.read_exact_at(0, &mut out)?;
    Ok(out)
}

#[test]
fn what_a_server_can_do_wrong() {
    let status = |status: &str| format!("HTTP/1.1 {status}\nContent-Length: 0\nConnection: close\n\n");
    let part = |head: &str, body: &str| format!("HTTP/1.1 206 Partial Content\n{head}\nConnection: close\n\n{body}");
    let whole = "HTTP/1.1 200 OK\nContent-Length: 99999\nETag: \"a\"\nConnection: close\n\n0123456789";
    let body = "0123".repeat(16 << 10);
    let good = part("Content-Length: 65536\nETag: \"a\"\nContent-Range: bytes 0-65535/99999", &body);
    assert_eq!(&read(&server(&[HEAD, &good])).unwrap(), b"0123");
    for (answers, expected) in [
        (vec![status("404 Not Found")], "no such object"),
        (vec![status("403 Forbidden")], "refuses access"),
        (vec![status("401 Unauthorized")], "refuses access"),
        (vec![status("500 Internal Server Error")], "500"),
        (vec![HEAD.into(), status("412 Precondition Failed")], "was changed on the server"),
        (vec![HEAD.into(), part("Content-Length: 65536\nETag: \"b\"\nContent-Range: bytes 0-65535/99999", &body)], "was changed"),
        (vec![HEAD.into(), part("Content-Length: 65536\nETag: \"a\"\nContent-Range: bytes 0-65535/99998", &body)], "was changed"),
        (vec![HEAD.into(), whole.into()], "does not serve parts"),
        (vec![HEAD.into(), part("Content-Length: 65536\nETag: \"a\"\nContent-Range: bytes 0-65535/99999", "01234")], ""),
    ] {
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let error = read(&server(&answers)).expect_err(expected).to_string();
        assert!(error.contains(expected) && error.len() < 300, "{expected}: {error}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = read(&format!("http://{closed}/x")).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("refused"), "{error}");
}
