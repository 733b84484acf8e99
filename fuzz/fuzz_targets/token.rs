//! Any bytes as a PKCS#11 URI, as an identity, and as the arguments and body of a tagged stanza.

#![no_main]

use age_core::format::Stanza;
use age_plugin_pkcs11::{
    identity::Identity,
    stanza::{NAME, Tagged},
    uri::Uri,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identity) = Identity::from_bytes(bytes) {
        assert_eq!(Identity::parse(&identity.to_string()).expect("its own"), identity);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Identity::parse(text);
    if let Ok(uri) = Uri::parse(text) {
        assert_eq!(Uri::parse(&uri.to_string()).expect("its own"), uri);
    }
    let (header, body) = text.split_once('\n').unwrap_or((text, ""));
    let args = header.split(' ').map(str::to_owned).collect();
    let _ = Tagged::parse(&Stanza { tag: NAME.into(), args, body: body.into() });
});
