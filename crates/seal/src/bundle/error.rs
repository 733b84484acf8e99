//! Why a bundle could not be written, opened or read.

use crate::{floe::FloeError, keys::KeyError};
use std::{io, path::Path};

/// Why a bundle could not be written, opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// No marker.
    #[error("{path}: no sealed bundle (no `coffer.bundle` of ours in it)")]
    NotABundle {
        /// What was to be a bundle.
        path: String,
    },
    /// Made by a later version.
    #[error("{path}: the bundle has format {found}, this version of coffer knows 1; use a newer one")]
    Version {
        /// Bundle.
        path: String,
        /// The marker's version.
        found: String,
    },
    /// None of the identities is a recipient.
    #[error("{path}: none of the {tried} identities given opens this bundle (it is sealed to {recipients})")]
    NoMatch {
        /// Bundle.
        path: String,
        /// Identities that were tried.
        tried: usize,
        /// Number and kinds of the bundle's recipients, as its key files say.
        recipients: String,
    },
    /// Authentication failed.
    #[error("{path}: {part} was changed or damaged after sealing")]
    Tampered {
        /// Bundle.
        path: String,
        /// Which file and segment.
        part: String,
    },
    /// A part is shorter than it was.
    #[error("{path}: {part} is cut: copy the bundle again from a whole one")]
    Truncated {
        /// Bundle.
        path: String,
        /// Which file, with lengths where they are known.
        part: String,
    },
    /// A part is absent.
    #[error("{path}: {part} is missing: copy the bundle again from a whole one")]
    Missing {
        /// Bundle.
        path: String,
        /// Which file.
        part: String,
    },
    /// Something lies in the bundle that does not belong to it.
    #[error("{path}: {part} does not belong to the bundle: move it elsewhere")]
    Extra {
        /// Bundle.
        path: String,
        /// Which file.
        part: String,
    },
    /// Authentic, but not to be used: whoever sealed it did not follow the format.
    #[error("{path}: {what}")]
    Invalid {
        /// Bundle.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A name that cannot be sealed.
    #[error("`{name}` cannot be a name in a bundle: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No file has this name.
    #[error("{path}: holds no file `{name}`")]
    NoFile {
        /// Bundle.
        path: String,
        /// The name.
        name: String,
    },
    /// A read beyond the end.
    #[error("{name}: bytes {at} to {at}+{len} are not in the file, which has {size}")]
    OutOfRange {
        /// File.
        name: String,
        /// First byte.
        at: u64,
        /// Bytes asked for.
        len: u64,
        /// The file's size.
        size: u64,
    },
    /// Recipients that cannot be used as given.
    #[error("recipients: {0}")]
    Recipients(String),
    /// The identity has seen a newer epoch of this bundle.
    #[error(
        "{path}: this is epoch {epoch} of a bundle of which this key has opened epoch {seen}: somebody put an older version back. \
         --allow-rollback opens it all the same, and with it come its old content and whoever could read that (recorded in {list})"
    )]
    Rollback {
        /// Bundle.
        path: String,
        /// Its epoch.
        epoch: u64,
        /// The newest that was opened.
        seen: u64,
        /// File that remembers.
        list: String,
    },
    /// Another run changes it.
    #[error("{0}: another command is changing this bundle; try again when it is done")]
    Busy(String),
    /// The file system cannot do what a change in one step needs.
    #[error(
        "{path}: this file system cannot exchange two folders in one step ({source}); copy the bundle to another one and change it there"
    )]
    NoExchange {
        /// What was to be exchanged.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What is to be sealed cannot be.
    #[error("{path}: {why}")]
    Source {
        /// File or directory to seal.
        path: String,
        /// Why not.
        why: String,
    },
    /// The output is there already.
    #[error("{0}: exists already; remove it or choose another name")]
    Exists(String),
    /// A key file was refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The cipher or the random generator failed.
    #[error("{0}: the cipher failed")]
    Cipher(String),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl BundleError {
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.display().to_string(), source }
    }

    pub(super) fn tampered(path: &Path, part: impl Into<String>) -> Self {
        Self::Tampered { path: path.display().to_string(), part: part.into() }
    }

    pub(super) fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.display().to_string(), what: what.into() }
    }

    pub(super) fn floe(path: &Path, part: &'static str) -> impl Fn(FloeError) -> Self {
        move |error| {
            let path = path.display().to_string();
            match error {
                FloeError::Truncated => Self::Truncated { path, part: part.into() },
                FloeError::Segment(position) => Self::Tampered { path, part: format!("{part}, segment {position},") },
                FloeError::Header | FloeError::Key => Self::Tampered { path, part: format!("{part}, header,") },
                FloeError::Backend => Self::Cipher(path),
            }
        }
    }
}
