//! Who can open: recipients and identities, as ordinary age keys (C2SP age.md).

mod error;
mod files;
mod hybrid;
mod pem;
mod prompt;
mod xwing;

pub use error::KeyError;
pub use prompt::{NoPrompt, Prompt};

pub(crate) use files::{read_text, write_private};

use crate::floor::Floor;
use age::{
    plugin::{IdentityPluginV1, RecipientPluginV1},
    secrecy::{ExposeSecret, SecretString},
};
use prompt::AgeCallbacks;
use std::{fmt, path::Path, sync::Arc};
use zeroize::Zeroizing;

/// scrypt's cost for a new passphrase: 2^18 blocks of 1 KiB, as the `age` command uses.
const SCRYPT_LOG_N: u8 = 18;
/// Most scrypt work that opening accepts from a bundle: 1 GiB of memory and a few seconds.
const MAX_SCRYPT_LOG_N: u8 = 20;

/// A public key that a bundle can be sealed to, or a passphrase.
#[derive(Clone)]
pub struct Recipient {
    public: Public,
    recovery: bool,
}

#[derive(Clone)]
enum Public {
    X25519(age::x25519::Recipient),
    Hybrid(Box<hybrid::Recipient>),
    Ssh(age::ssh::Recipient),
    Tagged(Box<age::tag::Recipient>),
    Plugin(age::plugin::Recipient),
    Passphrase(SecretString),
}

/// A private key that opens what was sealed to its recipient, or a passphrase.
pub struct Identity {
    private: Private,
    /// Kept beside the file that it comes from.
    floor: Option<Arc<Floor>>,
}

enum Private {
    X25519(age::x25519::Identity),
    Hybrid(hybrid::Identity),
    Ssh(Box<age::ssh::Identity>),
    Plugin(age::plugin::Identity, AgeCallbacks),
    Passphrase(SecretString),
}

impl Recipient {
    /// Parses `age1…`, `age1pq1…` (post-quantum), `age1tag1…` (P-256, on a token), `age1NAME1…` (the plugin `age-plugin-NAME`),
    /// `ssh-ed25519 …` or `ssh-rsa …` (2048 to 4096 bits).
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if let Ok(key) = text.parse() {
            return Ok(Public::X25519(key).into());
        }
        if let Some(key) = hybrid::Recipient::parse(text) {
            return Ok(Public::Hybrid(Box::new(key)).into());
        }
        if text.starts_with("ssh-") {
            let refused = |e| KeyError::Recipient(format!("{}: {e:?}", shown(text)));
            return text.parse().map(|key| Public::Ssh(key).into()).map_err(refused);
        }
        if let Ok(key) = text.parse() {
            return Ok(Public::Tagged(Box::new(key)).into());
        }
        match text.parse::<age::plugin::Recipient>() {
            // These two are no plugins' but were refused above.
            Ok(key) if !["pq", "tag"].contains(&key.plugin()) => Ok(Public::Plugin(key).into()),
            _ => Err(KeyError::Recipient(shown(text))),
        }
    }

    /// Reads a file with one recipient a line (empty lines and lines that begin with `#` are skipped), or an RSA public key of
    /// 2048 to 4096 bits in PEM (`BEGIN PUBLIC KEY`, `BEGIN RSA PUBLIC KEY`).
    pub fn read(path: &Path) -> Result<Vec<Self>, KeyError> {
        files::read_recipients(path)
    }

    /// Whoever knows `passphrase`.
    pub fn passphrase(passphrase: String) -> Self {
        Public::Passphrase(passphrase.into()).into()
    }

    /// The same, there by policy or not: a recovery recipient is not taken away in passing.
    pub fn recovery(mut self, recovery: bool) -> Self {
        self.recovery = recovery;
        self
    }

    pub(crate) fn is_recovery(&self) -> bool {
        self.recovery
    }

    /// Recipients of one class may share an age file; it is named after the class.
    pub(crate) fn class(&self) -> String {
        match &self.public {
            Public::X25519(_) => "x25519".into(),
            Public::Hybrid(_) => "mlkem768x25519".into(),
            Public::Ssh(_) => "ssh".into(),
            Public::Tagged(_) => "p256tag".into(),
            Public::Plugin(key) => format!("plugin-{}", key.plugin()),
            Public::Passphrase(_) => "passphrase".into(),
        }
    }

    pub(crate) fn to_age(&self) -> Result<Box<dyn age::Recipient>, KeyError> {
        Ok(match &self.public {
            Public::X25519(key) => Box::new(key.clone()),
            Public::Hybrid(key) => key.clone(),
            Public::Ssh(key) => Box::new(key.clone()),
            Public::Tagged(key) => key.clone(),
            Public::Plugin(key) => {
                let plugin = RecipientPluginV1::new(key.plugin(), std::slice::from_ref(key), &[], age::NoCallbacks);
                Box::new(plugin.map_err(|_| no_plugin(key.plugin()))?)
            }
            Public::Passphrase(text) => {
                let mut recipient = age::scrypt::Recipient::new(text.clone());
                recipient.set_work_factor(SCRYPT_LOG_N);
                Box::new(recipient)
            }
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.public {
            Public::X25519(key) => key.fmt(f),
            Public::Hybrid(key) => key.fmt(f),
            Public::Ssh(key) => key.fmt(f),
            Public::Tagged(key) => key.fmt(f),
            Public::Plugin(key) => key.fmt(f),
            Public::Passphrase(_) => f.write_str("passphrase"),
        }
    }
}

impl Identity {
    /// A new X25519 identity.
    pub fn generate() -> Self {
        Private::X25519(age::x25519::Identity::generate()).into()
    }

    /// A new post-quantum identity (ML-KEM-768 with X25519).
    pub fn generate_post_quantum() -> Result<Self, KeyError> {
        hybrid::Identity::generate().map(|key| Private::Hybrid(key).into()).ok_or(KeyError::Random)
    }

    /// Reads an age identity file (one key a line), an OpenSSH private key or an RSA private key in PEM, none under a passphrase.
    pub fn read(path: &Path) -> Result<Vec<Self>, KeyError> {
        Self::read_with(path, Arc::new(NoPrompt))
    }

    /// The same; asks for the passphrase of an age identity file or OpenSSH key that has one, and lets plugins ask for theirs.
    pub fn read_with(path: &Path, prompt: Arc<dyn Prompt>) -> Result<Vec<Self>, KeyError> {
        files::read_identities(path, &prompt)
    }

    /// An identity that is a passphrase.
    pub fn passphrase(passphrase: String) -> Self {
        Private::Passphrase(passphrase.into()).into()
    }

    /// The same identity, for who knows that a bundle is older than one that it opened before, and wants it all the same.
    pub fn allowing_rollback(mut self) -> Self {
        self.floor = self.floor.map(|floor| Arc::new(floor.lenient()));
        self
    }

    pub(crate) fn floor(&self) -> Option<&Floor> {
        self.floor.as_deref()
    }

    /// Its public half; `None` for a passphrase, and for a plugin's, which only the plugin knows.
    pub fn recipient(&self) -> Option<String> {
        match &self.private {
            Private::X25519(key) => Some(key.to_public().to_string()),
            Private::Hybrid(key) => Some(key.to_public().to_string()),
            Private::Ssh(key) => age::ssh::Recipient::try_from((**key).clone()).ok().map(|r| r.to_string()),
            Private::Plugin(..) | Private::Passphrase(_) => None,
        }
    }

    /// Writes an age identity file that only its owner may read; an existing file is never overwritten.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let (public, secret) = match &self.private {
            Private::X25519(key) => (key.to_public().to_string(), key.to_string()),
            Private::Hybrid(key) => (key.to_public().to_string(), key.to_secret()),
            _ => return Err(KeyError::NotWritable(path.display().to_string())),
        };
        let text = Zeroizing::new(format!("# public key: {public}\n{}\n", secret.expose_secret()));
        write_private(path, text.as_bytes())
    }

    pub(crate) fn to_age(&self) -> Result<Box<dyn age::Identity>, KeyError> {
        Ok(match &self.private {
            Private::X25519(key) => Box::new(key.clone()),
            Private::Hybrid(key) => Box::new(key.clone()),
            Private::Ssh(key) => key.clone(),
            Private::Plugin(key, callbacks) => {
                let plugin = IdentityPluginV1::new(key.plugin(), std::slice::from_ref(key), callbacks.clone());
                Box::new(plugin.map_err(|_| no_plugin(key.plugin()))?)
            }
            Private::Passphrase(text) => {
                let mut identity = age::scrypt::Identity::new(text.clone());
                identity.set_max_work_factor(MAX_SCRYPT_LOG_N);
                Box::new(identity)
            }
        })
    }
}

impl Private {
    /// One line of an identity file.
    fn parse(line: &str, prompt: &Arc<dyn Prompt>) -> Option<Self> {
        if let Ok(key) = line.parse() {
            return Some(Self::X25519(key));
        }
        if let Some(key) = hybrid::Identity::parse(line) {
            return Some(Self::Hybrid(key));
        }
        line.parse().ok().map(|key| Self::Plugin(key, AgeCallbacks(prompt.clone())))
    }
}

impl From<Private> for Identity {
    fn from(private: Private) -> Self {
        Self { private, floor: None }
    }
}

impl From<Public> for Recipient {
    fn from(public: Public) -> Self {
        Self { public, recovery: false }
    }
}

/// Names the recipient, never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.private {
            Private::Plugin(key, _) => format!("age-plugin-{}", key.plugin()),
            _ => "a passphrase".into(),
        };
        write!(f, "Identity({})", self.recipient().unwrap_or(kind))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

fn no_plugin(name: &str) -> KeyError {
    KeyError::NoPlugin(format!("age-plugin-{name}"))
}

/// What a message may show of something that is no recipient: it could be a secret pasted by mistake.
fn shown(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if ["SECRET", "PRIVATE", "AGE-PLUGIN-"].iter().any(|word| upper.contains(word)) {
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
