//! Asking the person at the terminal. This library never does: whoever uses it hands in how.

use age::secrecy::SecretString;
use std::sync::Arc;

/// How to ask and tell the person who uses the program; a token's plugin wants to, and a key file with a passphrase.
pub trait Prompt: Send + Sync {
    /// Asks for a secret, without showing it; `None` where nobody can be asked.
    fn secret(&self, what: &str) -> Option<String>;

    /// Tells something that should be known now (`touch your token`).
    fn tell(&self, message: &str);
}

/// Nobody can be asked.
pub struct NoPrompt;

impl Prompt for NoPrompt {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn tell(&self, _: &str) {}
}

/// A prompt in the form that the age crate wants.
#[derive(Clone)]
pub(super) struct AgeCallbacks(pub(super) Arc<dyn Prompt>);

impl age::Callbacks for AgeCallbacks {
    fn display_message(&self, message: &str) {
        self.0.tell(message);
    }

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, what: &str) -> Option<SecretString> {
        self.0.secret(what).map(Into::into)
    }
}
