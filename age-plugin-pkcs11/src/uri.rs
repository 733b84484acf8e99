//! PKCS#11 URIs (RFC 7512): which token, which key on it, through which module, and where the PIN is.

use std::fmt::{self, Write};

/// Longest URI that is read, in bytes.
pub const MAX_LEN: usize = 2048;

/// A private key on a token. What is absent matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// Label of the token.
    pub token: Option<String>,
    /// Who made the token.
    pub manufacturer: Option<String>,
    /// Model of the token.
    pub model: Option<String>,
    /// Serial number of the token.
    pub serial: Option<String>,
    /// Number of the slot that the token is in.
    pub slot_id: Option<u64>,
    /// Label of the key (`CKA_LABEL`).
    pub object: Option<String>,
    /// Identifier of the key (`CKA_ID`).
    pub id: Option<Vec<u8>>,
    /// The token's PKCS#11 library: an absolute path.
    pub module_path: String,
    /// File or descriptor whose first line is the PIN: an absolute path.
    pub pin_source: Option<String>,
}

/// Why a URI was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriError {
    /// Another scheme, or none.
    #[error("no PKCS#11 URI: it begins with `pkcs11:`")]
    Scheme,
    /// Too long.
    #[error("{0} bytes: too long for a PKCS#11 URI (at most {MAX_LEN})")]
    TooLong(usize),
    /// Not `name=value`.
    #[error("`{0}` is no attribute: expected NAME=VALUE")]
    Attribute(String),
    /// There twice.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// An attribute that would change what is meant, if it were ignored.
    #[error(
        "attribute `{0}` is not known here: expected token, manufacturer, model, serial, slot-id, object, id, type, module-path, pin-source"
    )]
    Unknown(String),
    /// A value that cannot be.
    #[error("{attribute}: {why}")]
    Value {
        /// Attribute.
        attribute: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Without the library there is no token.
    #[error("module-path is missing: the token's PKCS#11 library, an absolute path")]
    NoModule,
}

impl Uri {
    /// Parses `pkcs11:token=…;id=…?module-path=…`.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_LEN {
            return Err(UriError::TooLong(text.len()));
        }
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let mut seen = Vec::new();
        let attributes = path.split(';').map(|part| (part, true)).chain(query.split('&').map(|part| (part, false)));
        for (part, in_path) in attributes.filter(|(part, _)| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| UriError::Attribute(shown(part)))?;
            if seen.contains(&name) {
                return Err(UriError::Twice(shown(name)));
            }
            seen.push(name);
            uri.set(name, &decode(name, value)?, in_path)?;
        }
        if uri.module_path.is_empty() { Err(UriError::NoModule) } else { Ok(uri) }
    }

    fn set(&mut self, name: &str, value: &[u8], in_path: bool) -> Result<(), UriError> {
        let refused = |why| UriError::Value { attribute: name.into(), why };
        let text = || String::from_utf8(value.to_vec()).map_err(|_| refused("not in UTF-8"));
        match (name, in_path) {
            ("token", true) => self.token = Some(text()?),
            ("manufacturer", true) => self.manufacturer = Some(text()?),
            ("model", true) => self.model = Some(text()?),
            ("serial", true) => self.serial = Some(text()?),
            ("slot-id", true) => self.slot_id = Some(text()?.parse().map_err(|_| refused("not a number"))?),
            ("object", true) => self.object = Some(text()?),
            ("id", true) => self.id = Some(value.to_vec()),
            ("type", true) if value == b"private" => (),
            ("type", true) => return Err(refused("only `private` keys open anything")),
            ("module-path", false) => self.module_path = absolute(text()?).map_err(refused)?,
            ("pin-source", false) => {
                let source = text()?;
                self.pin_source = Some(absolute(source.strip_prefix("file:").unwrap_or(&source)).map_err(refused)?);
            }
            ("pin-value", false) => {
                return Err(refused("a PIN does not belong into a URI: leave it out, or name a file by pin-source"));
            }
            _ => return Err(UriError::Unknown(shown(name))),
        }
        Ok(())
    }
}

/// As it is parsed, in one spelling.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot_id.map(|slot| slot.to_string());
        let path = [
            ("token", self.token.as_deref()),
            ("manufacturer", self.manufacturer.as_deref()),
            ("model", self.model.as_deref()),
            ("serial", self.serial.as_deref()),
            ("slot-id", slot.as_deref()),
            ("object", self.object.as_deref()),
        ];
        f.write_str("pkcs11:")?;
        for (name, value) in path.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(f, "{name}={};", encode(value.as_bytes(), b""))?;
        }
        if let Some(id) = &self.id {
            f.write_str("id=")?;
            id.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            f.write_char(';')?;
        }
        write!(f, "type=private?module-path={}", encode(self.module_path.as_bytes(), b"/"))?;
        match &self.pin_source {
            Some(source) => write!(f, "&pin-source={}", encode(source.as_bytes(), b"/")),
            None => Ok(()),
        }
    }
}

fn absolute(path: impl Into<String>) -> Result<String, &'static str> {
    let path = path.into();
    // RFC 8089: `file:///path` is `file:/path`.
    let path = if path.starts_with("///") { path[2..].to_owned() } else { path };
    match path.starts_with('/') && !path.starts_with("//") && !path.contains('\0') {
        true => Ok(path),
        false => Err("an absolute path is needed (commands and other schemes are not run)"),
    }
}

fn decode(name: &str, value: &str) -> Result<Vec<u8>, UriError> {
    let refused = || UriError::Value { attribute: shown(name), why: "a `%` is not followed by two hexadecimal digits" };
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = digit().zip(digit()).ok_or_else(refused)?;
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    Ok(bytes)
}

fn encode(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also_plain.contains(&byte) {
            text.push(byte.into());
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// What a message may show of what was not understood.
fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let uri = Uri::parse(
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;\
             type=private;id=%69%95%3E%5C%F4%BD%EC%91;serial=?module-path=/usr/lib/p11.so&pin-source=file:/etc/token_pin",
        )
        .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(uri.manufacturer.as_deref(), Some("Snake Oil, Inc."));
        assert_eq!((uri.model.as_deref(), uri.serial.as_deref()), (Some("1.0"), Some("")));
        assert_eq!(uri.object.as_deref(), Some("my-certificate"));
        assert_eq!(uri.id.as_deref(), Some(&b"\x69\x95\x3e\x5c\xf4\xbd\xec\x91"[..]));
        assert_eq!((&*uri.module_path, uri.pin_source.as_deref()), ("/usr/lib/p11.so", Some("/etc/token_pin")));
        assert_eq!(Uri::parse("pkcs11:?module-path=/m&pin-source=file:///p").unwrap().pin_source.as_deref(), Some("/p"));
    }

    #[test]
    fn bad_uris() {
        assert_eq!(Uri::parse(""), Err(UriError::Scheme));
        assert_eq!(Uri::parse("https://example.com"), Err(UriError::Scheme));
        assert_eq!(Uri::parse("pkcs11:"), Err(UriError::NoModule));
        assert_eq!(Uri::parse("pkcs11:token=a"), Err(UriError::NoModule));
        assert_eq!(Uri::parse("pkcs11:token?module-path=/m"), Err(UriError::Attribute("token".into())));
        assert_eq!(Uri::parse("pkcs11:token=a;token=b?module-path=/m"), Err(UriError::Twice("token".into())));
        assert_eq!(Uri::parse("pkcs11:module-path=/m"), Err(UriError::Unknown("module-path".into())));
        assert_eq!(Uri::parse("pkcs11:?module-name=p11"), Err(UriError::Unknown("module-name".into())));
        assert_eq!(Uri::parse(&format!("pkcs11:{}", "a".repeat(MAX_LEN))), Err(UriError::TooLong(MAX_LEN + 7)));
        for (text, attribute) in [
            ("pkcs11:token=%4?module-path=/m", "token"),
            ("pkcs11:token=%zz?module-path=/m", "token"),
            ("pkcs11:token=%+1?module-path=/m", "token"),
            ("pkcs11:token=%ff?module-path=/m", "token"),
            ("pkcs11:slot-id=-1?module-path=/m", "slot-id"),
            ("pkcs11:slot-id=18446744073709551616?module-path=/m", "slot-id"),
            ("pkcs11:type=public?module-path=/m", "type"),
            ("pkcs11:?module-path=m.so", "module-path"),
            ("pkcs11:?module-path=/m%00", "module-path"),
            ("pkcs11:?module-path=/m&pin-source=|/usr/bin/ask", "pin-source"),
            ("pkcs11:?module-path=/m&pin-source=https://example.com/pin", "pin-source"),
            ("pkcs11:?module-path=/m&pin-source=file://host/pin", "pin-source"),
            ("pkcs11:?module-path=/m&pin-value=1234", "pin-value"),
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert!(matches!(&error, UriError::Value { attribute: named, .. } if named == attribute), "{text}: {error}");
            assert!(!error.to_string().contains("1234"));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            token in proptest::option::of(".{0,32}"),
            object in proptest::option::of("[^\u{0}]{0,32}"),
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            slot_id: Option<u64>,
            module in "/[^/\u{0}].{0,40}",
        ) {
            prop_assume!(!module.contains('\0'));
            let uri = Uri { token, object, id, slot_id, module_path: module, ..Uri::default() };
            prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
        }

        #[test]
        fn no_text_panics(text in "(pkcs11:)?[a-z=;?&%/|:0-9-]{0,80}") {
            if let Ok(uri) = Uri::parse(&text) {
                prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
            }
        }
    }
}
