//! A sealed bundle: named files under one content key, wrapped for its recipients. Byte map: docs/spec/bundle.md.

mod data;
mod direct;
mod error;
mod keyring;
mod layout;
mod manifest;
mod members;
mod pipeline;
mod read;
mod recent;
pub mod records;
mod rekey;
mod sealed_file;
mod tree;
mod unfinished;
mod unpack;
mod write;

pub use error::BundleError;
pub use keyring::recipients;
pub use members::Member;
pub use read::Bundle;
pub use rekey::{Changes, rekey, rotate};
pub use sealed_file::SealedFile;
pub use tree::{seal_data, seal_path};
pub use write::{BundleWriter, NamelessBundle, SealedStream};

/// Told of bytes done and bytes in all while something long runs.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod rekey_tests;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
