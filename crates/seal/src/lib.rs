//! Keys, recipients, sealed streams, sealed bundles and request encryption. Knows bytes, not models.
//! The only crate that owns key bytes; they are zeroized and never printed.

pub mod bundle;
pub mod ehbp;
pub mod floe;
pub mod keys;

pub use keys::{Identity, Recipient};
