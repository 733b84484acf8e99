//! Any bytes as a certificate: what is accepted is written and read again unchanged, and its traces can be compared.

#![no_main]

use coffer_evidence::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(certificate) = Certificate::parse(bytes) else { return };
    assert_eq!(Certificate::parse(certificate.to_json().as_bytes()).as_ref(), Ok(&certificate));
    let traces: Vec<_> = certificate.cases.iter().flat_map(|c| &c.trace).collect();
    traces.windows(2).for_each(|pair| _ = pair[0].first_difference(pair[1]));
});
