//! Any header and any bytes, in any pieces, as an encrypted request, an encrypted answer and a key configuration.

#![no_main]

use coffer_seal::ehbp::{ClientRequest, ServerKey};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SERVER: LazyLock<ServerKey> = LazyLock::new(ServerKey::generate);

fuzz_target!(|input: (&str, Vec<&[u8]>)| {
    let (header, pieces) = input;
    let _ = ClientRequest::seal(pieces.first().unwrap_or(&&b""[..]), b"x");
    let (client, own_header, body) = ClientRequest::seal(&SERVER.config(), b"question").expect("our own configuration");
    for (header, head) in [(header, &b""[..]), (own_header.as_str(), &b""[..]), (own_header.as_str(), &body[..])] {
        let Ok(mut request) = SERVER.open(header) else { continue };
        let pushed = request.push(head).is_ok() && pieces.iter().all(|piece| request.push(piece).is_ok());
        assert_eq!(request.finish().is_ok(), pushed && !head.is_empty() && whole(&pieces), "only what was sealed is accepted");
    }
    let nonce = "00".repeat(32);
    let mut answer = client.open(if pieces.len() % 2 == 0 { nonce.as_str() } else { header }).ok();
    pieces.iter().for_each(|piece| answer.iter_mut().for_each(|a| drop(a.push(piece))));
});

/// Whether the pieces are nothing but empty frames.
fn whole(pieces: &[&[u8]]) -> bool {
    let bytes = pieces.concat();
    bytes.len() % 4 == 0 && bytes.iter().all(|b| *b == 0)
}
