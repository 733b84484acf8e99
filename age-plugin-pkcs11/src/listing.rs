//! The keys on the tokens of a module, as lines of an identity file with the recipient beside each.

use crate::{identity::Identity, pin, token::Module, uri::Uri};
use anyhow::{Context, Result, anyhow, bail};
use std::fmt::Write;

/// Which keys to list, and what to write into their identities.
#[derive(Debug)]
pub struct Listing {
    /// The PKCS#11 library: an absolute path.
    pub module: String,
    /// Only the token with this label.
    pub token: Option<String>,
    /// File or descriptor with the PIN, as an absolute path: goes into the identities, so that nobody is asked.
    pub pin_source: Option<String>,
    /// Log in first, with the PIN in this file: for tokens that do not show their public keys to everybody.
    pub login_with: Option<String>,
}

/// An identity file with every P-256 key that is there; an error if there is none, with what to do.
pub fn list(listing: &Listing) -> Result<String> {
    let place = Uri { module_path: listing.module.clone(), pin_source: listing.pin_source.clone(), ..Uri::default() };
    let place = Uri::parse(&place.to_string())?;
    let pin = listing.login_with.as_deref().map(|path| pin::read(path).map_err(|e| anyhow!("{path}: {e}"))).transpose()?;
    let module = Module::load(&listing.module)?;
    let tokens = module.tokens()?;
    let mut text = String::new();
    for token in tokens.iter().filter(|token| listing.token.as_deref().is_none_or(|label| label == token.label())) {
        let twins = tokens.iter().filter(|other| other.label() == token.label()).count();
        for found in token.public_keys(pin.as_ref())? {
            let uri = Uri {
                token: Some(token.label().to_owned()),
                // Not for a token whose label says enough: a copy of it, as HSMs make them, has another serial number.
                serial: (twins > 1).then(|| token.serial().to_owned()),
                object: found.id.is_empty().then(|| found.label.clone()),
                id: (!found.id.is_empty()).then(|| found.id.clone()),
                ..place.clone()
            };
            let identity = Identity { key: found.key, uri };
            let label = found.label.escape_debug();
            writeln!(text, "# token `{}`, key `{label}`", token.label().escape_debug()).context("formatting")?;
            writeln!(text, "# {}\n# recipient: {}\n{identity}", identity.uri, identity.recipient()).context("formatting")?;
        }
    }
    if text.is_empty() {
        bail!("{}", nothing(listing, tokens.iter().map(|token| token.label().to_owned()).collect()));
    }
    Ok(text)
}

fn nothing(listing: &Listing, tokens: Vec<String>) -> String {
    let module = &listing.module;
    let seen = if tokens.is_empty() { "no token".into() } else { format!("token {}", tokens.join(", ")) };
    let token = listing.token.as_deref().or(tokens.first().map(String::as_str)).unwrap_or("LABEL");
    format!(
        "no P-256 public key found ({module} sees {seen}). Make a key that may derive, for instance\n  \
         pkcs11-tool --module {module} --token-label {token} --login --keypairgen --key-type EC:prime256v1 --usage-derive --id 01 --label NAME\n\
         or, if the token shows its keys only after a PIN, --login-with FILE"
    )
}
