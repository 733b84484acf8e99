//! Why a key was refused.

use std::io;

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a recipient.
    #[error("`{0}` is no recipient: expected age1…, age1pq1…, age1tag1…, ssh-ed25519 … or ssh-rsa …")]
    Recipient(String),
    /// A file in PEM that holds no RSA public key of a size that is used.
    #[error("{0}: no RSA public key of 2048 to 4096 bits (other kinds of PEM keys cannot be recipients)")]
    Pem(String),
    /// Not an identity.
    #[error(
        "{path}: line {line} is no identity: expected AGE-SECRET-KEY-1…, AGE-SECRET-KEY-PQ-1…, AGE-PLUGIN-…, an OpenSSH private \
         key, or an RSA private key of 2048 to 4096 bits in PEM"
    )]
    Identity {
        /// File.
        path: String,
        /// Line, from 1.
        line: usize,
    },
    /// The file of keys is itself encrypted.
    #[error("{path}: the key is protected by a passphrase; {remedy}")]
    Encrypted {
        /// File.
        path: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Recipients are public, and read in plain text only.
    #[error("{0}: an encrypted file, where a list of recipients is wanted; decrypt it first (`age -d`)")]
    EncryptedList(String),
    /// The passphrase does not open the file of keys.
    #[error("{0}: the passphrase does not open this key, or the file is damaged")]
    WrongPassphrase(String),
    /// An SSH key of another type, or on a token.
    #[error("{0}: only ssh-ed25519 and ssh-rsa keys in files can open bundles")]
    Unsupported(String),
    /// The program `age-plugin-NAME` is needed and not there.
    #[error("the key needs the program `{0}`, which is not on the PATH: install it (it is an age plugin)")]
    NoPlugin(String),
    /// A plugin could not or would not.
    #[error("{0}")]
    Plugin(String),
    /// No key in it.
    #[error("{0}: the file holds no key")]
    Empty(String),
    /// `write` never overwrites.
    #[error("{0}: exists already; a key file is never overwritten: remove it or choose another name")]
    Exists(String),
    /// Only age's own identities are written.
    #[error("{0}: only an age key can be written to a file, not an SSH key, a plugin's or a passphrase")]
    NotWritable(String),
    /// There is no randomness to make a key from.
    #[error("no random bytes to make a key from")]
    Random,
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("{path}: {source}")]
    Write {
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
}
