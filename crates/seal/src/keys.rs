//! Who can open: recipients and identities, as ordinary age keys (C2SP age.md).

use std::path::Path;

/// A public key that a bundle can be sealed to.
#[derive(Clone)]
pub struct Recipient;

/// A private key that opens what was sealed to its recipient.
pub struct Identity;

impl Recipient {
    /// Parses `age1…`, `ssh-ed25519 …` or `ssh-rsa …`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let _ = text;
        todo!()
    }
}

impl Identity {
    /// A new X25519 identity.
    pub fn generate() -> Self {
        todo!()
    }
    /// Reads an age identity file or an OpenSSH private key.
    pub fn read(path: &Path) -> Result<Vec<Self>, KeyError> {
        let _ = path;
        todo!()
    }
    /// An identity that is a passphrase.
    pub fn passphrase(passphrase: String) -> Self {
        let _ = passphrase;
        todo!()
    }
    /// Its public half; `None` for a passphrase.
    pub fn recipient(&self) -> Option<String> {
        todo!()
    }
    /// Writes an age identity file that only its owner may read; an existing file is never overwritten.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let _ = path;
        todo!()
    }
}

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a recipient.
    #[error("`{0}` is no recipient: expected age1…, ssh-ed25519 … or ssh-rsa …")]
    Recipient(String),
}
