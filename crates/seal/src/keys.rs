//! Who can open: recipients and identities, as ordinary age keys (C2SP age.md).

use age::secrecy::{ExposeSecret, SecretString};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};
use zeroize::Zeroizing;

/// Largest file of keys that is read.
const MAX_KEY_FILE: u64 = 1 << 20;
/// scrypt's cost for a new passphrase: 2^18 blocks of 1 KiB, as the `age` command uses.
const SCRYPT_LOG_N: u8 = 18;
/// Most scrypt work that opening accepts from a bundle: 1 GiB of memory and a few seconds.
const MAX_SCRYPT_LOG_N: u8 = 20;

/// A public key that a bundle can be sealed to, or a passphrase.
#[derive(Clone)]
pub struct Recipient(Public);

#[derive(Clone)]
enum Public {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
    Passphrase(SecretString),
}

/// A private key that opens what was sealed to its recipient, or a passphrase.
pub struct Identity(Private);

enum Private {
    X25519(age::x25519::Identity),
    Ssh(Box<age::ssh::Identity>),
    Passphrase(SecretString),
}

/// Recipients that may share one age file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    X25519,
    Ssh,
    Passphrase,
}

impl Recipient {
    /// Parses `age1…`, `ssh-ed25519 …` or `ssh-rsa …` (2048 to 4096 bits).
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if let Ok(key) = text.parse() {
            return Ok(Self(Public::X25519(key)));
        }
        if text.starts_with("ssh-") {
            let refused = |e| KeyError::Recipient(format!("{}: {e:?}", shown(text)));
            return text.parse().map(|key| Self(Public::Ssh(key))).map_err(refused);
        }
        Err(KeyError::Recipient(shown(text)))
    }

    /// Reads a file with one recipient a line; empty lines and lines that begin with `#` are skipped.
    pub fn read(path: &Path) -> Result<Vec<Self>, KeyError> {
        let text = read_text(path)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let recipients = lines.map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        if recipients.is_empty() { Err(KeyError::Empty(path.display().to_string())) } else { Ok(recipients) }
    }

    /// Whoever knows `passphrase`.
    pub fn passphrase(passphrase: String) -> Self {
        Self(Public::Passphrase(passphrase.into()))
    }

    pub(crate) fn class(&self) -> Class {
        match self.0 {
            Public::X25519(_) => Class::X25519,
            Public::Ssh(_) => Class::Ssh,
            Public::Passphrase(_) => Class::Passphrase,
        }
    }

    pub(crate) fn to_age(&self) -> Box<dyn age::Recipient> {
        match &self.0 {
            Public::X25519(key) => Box::new(key.clone()),
            Public::Ssh(key) => Box::new(key.clone()),
            Public::Passphrase(text) => {
                let mut recipient = age::scrypt::Recipient::new(text.clone());
                recipient.set_work_factor(SCRYPT_LOG_N);
                Box::new(recipient)
            }
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Public::X25519(key) => key.fmt(f),
            Public::Ssh(key) => key.fmt(f),
            Public::Passphrase(_) => f.write_str("a passphrase"),
        }
    }
}

impl Identity {
    /// A new X25519 identity.
    pub fn generate() -> Self {
        Self(Private::X25519(age::x25519::Identity::generate()))
    }

    /// Reads an age identity file (X25519, one a line) or an OpenSSH private key without passphrase.
    pub fn read(path: &Path) -> Result<Vec<Self>, KeyError> {
        let text = read_text(path)?;
        let name = || path.display().to_string();
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE") {
            return Err(KeyError::Encrypted { path: name(), remedy: "decrypt it with `age -d` first" });
        }
        if text.trim_start().starts_with("-----BEGIN") {
            return Ok(vec![Self::from_ssh(&text, path)?]);
        }
        let lines = text.lines().enumerate().map(|(at, line)| (at, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let identities = keys
            .map(|(at, line)| {
                let key = line.parse().map_err(|_| KeyError::Identity { path: name(), line: at + 1 })?;
                Ok(Self(Private::X25519(key)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if identities.is_empty() { Err(KeyError::Empty(name())) } else { Ok(identities) }
    }

    fn from_ssh(text: &str, path: &Path) -> Result<Self, KeyError> {
        let name = || path.display().to_string();
        match age::ssh::Identity::from_buffer(text.trim_start().as_bytes(), None) {
            Ok(key @ age::ssh::Identity::Unencrypted(_)) => Ok(Self(Private::Ssh(Box::new(key)))),
            Ok(age::ssh::Identity::Encrypted(_)) => Err(KeyError::Encrypted {
                path: name(),
                remedy: "make a copy without passphrase with `ssh-keygen -p -N ''`, or use an age key",
            }),
            Ok(age::ssh::Identity::Unsupported(_)) => Err(KeyError::Unsupported(name())),
            Err(_) => Err(KeyError::Identity { path: name(), line: 1 }),
        }
    }

    /// An identity that is a passphrase.
    pub fn passphrase(passphrase: String) -> Self {
        Self(Private::Passphrase(passphrase.into()))
    }

    /// Its public half; `None` for a passphrase.
    pub fn recipient(&self) -> Option<String> {
        match &self.0 {
            Private::X25519(key) => Some(key.to_public().to_string()),
            Private::Ssh(key) => age::ssh::Recipient::try_from((**key).clone()).ok().map(|r| r.to_string()),
            Private::Passphrase(_) => None,
        }
    }

    /// Writes an X25519 identity as an age identity file that only its owner may read; an existing file is never overwritten.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let name = || path.display().to_string();
        let Private::X25519(key) = &self.0 else { return Err(KeyError::NotWritable(name())) };
        let secret = key.to_string();
        let text = Zeroizing::new(format!("# public key: {}\n{}\n", key.to_public(), secret.expose_secret()));
        write_private(path, text.as_bytes())
    }

    pub(crate) fn to_age(&self) -> Box<dyn age::Identity> {
        match &self.0 {
            Private::X25519(key) => Box::new(key.clone()),
            Private::Ssh(key) => key.clone(),
            Private::Passphrase(text) => {
                let mut identity = age::scrypt::Identity::new(text.clone());
                identity.set_max_work_factor(MAX_SCRYPT_LOG_N);
                Box::new(identity)
            }
        }
    }
}

/// Names the recipient, never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient().as_deref().unwrap_or("a passphrase"))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a recipient.
    #[error("`{0}` is no recipient: expected age1…, ssh-ed25519 … or ssh-rsa …")]
    Recipient(String),
    /// Not an identity.
    #[error("{path}: line {line} is no identity: expected AGE-SECRET-KEY-1… or an OpenSSH private key")]
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
    /// An SSH key of another type, or on a token.
    #[error("{0}: only ssh-ed25519 and ssh-rsa keys in files can open bundles")]
    Unsupported(String),
    /// No key in it.
    #[error("{0}: the file holds no key")]
    Empty(String),
    /// `write` never overwrites.
    #[error("{0}: exists already; a key file is never overwritten: remove it or choose another name")]
    Exists(String),
    /// Only X25519 identities are written.
    #[error("{0}: only an age key can be written to a file, not an SSH key or a passphrase")]
    NotWritable(String),
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

/// A file of keys as text, bounded.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let failed = |source| KeyError::Read { path: path.display().to_string(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_KEY_FILE {
        let what = format!("{size} bytes is too long for a file of keys (at most {MAX_KEY_FILE})");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    // Reserved at once: growing would leave copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(size as usize + 1));
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a new file that only its owner may read; an existing file is never overwritten.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let name = || path.display().to_string();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(name()),
        _ => KeyError::Write { path: name(), source },
    };
    let mut file = create_private(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| {
        let _ = fs::remove_file(path);
        failed(e)
    })
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// What a message may show of something that is no recipient: it could be a secret pasted by mistake.
fn shown(text: &str) -> String {
    if text.to_ascii_uppercase().contains("SECRET") || text.contains("PRIVATE") {
        return "(a private key)".into();
    }
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests;
