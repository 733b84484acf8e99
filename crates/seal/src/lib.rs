//! Keys, recipients, sealed streams, sealed bundles and request encryption. Knows bytes, not models.
//! The only crate that owns key bytes; they are zeroized and never printed.

pub mod bundle;
pub mod ehbp;
pub mod floe;
mod floor;
pub mod keys;
mod locked_folder;
mod memory;
pub mod place;
pub mod recognize;
pub mod signing;
#[cfg(test)]
mod wycheproof;

pub use keys::{Identity, Recipient};
pub use locked_folder::LockedFolder;

/// Folder of published vectors below `$COFFER_SHARED` or `../shared`; says so and gives `None` where it is absent.
#[cfg(test)]
fn vectors(name: &str) -> Option<std::path::PathBuf> {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("COFFER_SHARED").map_or_else(beside, Into::into);
    let folder = shared.join("vectors").join(name);
    if !folder.is_dir() {
        println!("skipped: no {} (set COFFER_SHARED)", folder.display());
        return None;
    }
    Some(folder)
}
