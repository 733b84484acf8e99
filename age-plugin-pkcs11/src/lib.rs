//! An age plugin for P-256 keys on PKCS#11 tokens. The private key never leaves the token: it agrees on one secret for each age file,
//! and this program opens the file key with that. Formats: `docs/spec/token.md`.
//!
//! Recipients are `age1tag1…`, which age clients encrypt to by themselves (C2SP age.md, tagged recipients).

pub mod identity;
pub mod listing;
pub mod plugin;
pub mod stanza;
pub mod uri;

mod hpke;
mod pin;
mod token;
