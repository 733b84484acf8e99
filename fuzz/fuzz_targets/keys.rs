//! Any bytes as a file of identities, a file of recipients, and a recipient.

#![no_main]

use coffer_seal::{Identity, Recipient};
use libfuzzer_sys::fuzz_target;
use std::{fs, path::PathBuf, sync::LazyLock};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| PathBuf::from(format!("/dev/shm/coffer-fuzz-key-{}", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*FILE, bytes).expect("written");
    for identity in Identity::read(&FILE).into_iter().flatten() {
        if let Some(recipient) = identity.recipient() {
            assert_eq!(Recipient::parse(&recipient).expect("its own").to_string(), recipient);
        }
    }
    let _ = Recipient::read(&FILE);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(recipient) = Recipient::parse(text)
    {
        assert!(Recipient::parse(&recipient.to_string()).is_ok(), "{recipient} was accepted before");
    }
});
