//! Where the PIN comes from: the token's own keypad, the file or descriptor that the URI names, or the person whom the age client asks.

use crate::{token::Token, uri::Uri};
use age_core::secrecy::SecretString;
use age_plugin::Callbacks;
use std::{
    fs::File,
    io::{self, Read},
};
use zeroize::Zeroizing;

/// Longest PIN that is read from a file, in bytes.
const MAX_LEN: usize = 256;

/// The PIN; `Ok(None)` where the token needs none from us. The inner error is for the user.
pub(crate) fn obtain<E>(
    uri: &Uri,
    token: &Token,
    callbacks: &mut impl Callbacks<E>,
) -> io::Result<Result<Option<SecretString>, String>> {
    let label = token.label();
    if !token.info.login_required() {
        return Ok(Ok(None));
    }
    if token.info.protected_authentication_path() {
        // Whether the client shows it or not, the token asks.
        let _ = callbacks.message(&format!("Enter the PIN of token `{label}` on its keypad"))?;
        return Ok(Ok(None));
    }
    if let Some(path) = &uri.pin_source {
        return Ok(unattended(path, token).map(Some));
    }
    let warning = if token.info.user_pin_final_try() { " (the last try before it locks)" } else { "" };
    let asked = callbacks.request_secret(&format!("PIN of token `{label}`{warning}"))?;
    let nobody = |_| {
        format!(
            "no PIN for token `{label}`: nobody could be asked; for use without a person name a file by `pin-source` \
             (age-plugin-pkcs11 --pin-source FILE writes such an identity)"
        )
    };
    Ok(asked.map(Some).map_err(nobody))
}

/// From the file. A token that was given a wrong PIN before is left alone: trying on would lock it.
fn unattended(path: &str, token: &Token) -> Result<SecretString, String> {
    if token.info.user_pin_count_low() || token.info.user_pin_final_try() {
        let label = token.label();
        return Err(format!(
            "token `{label}` was given a wrong PIN since it was last opened, so {path} is not tried on it: \
             correct the file, then log in once by hand (pkcs11-tool --login --list-objects)"
        ));
    }
    read(path).map_err(|e| format!("{path}: {e}"))
}

/// The first line of a file, pipe or descriptor.
pub(crate) fn read(path: &str) -> Result<SecretString, String> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_LEN + 1));
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_LEN as u64 + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let line = text.split(['\r', '\n']).next().unwrap_or_default();
    match line.len() {
        0 => Err("the PIN is empty".into()),
        1..=MAX_LEN => Ok(line.to_owned().into()),
        _ => Err(format!("longer than {MAX_LEN} bytes, which is no PIN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age_core::secrecy::ExposeSecret;

    #[test]
    fn the_first_line_is_the_pin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let read = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            read(path.to_str().unwrap())
        };
        assert_eq!(read(b"1234\r\nmore").unwrap().expose_secret(), "1234");
        assert_eq!(read(&[b'1'; MAX_LEN]).unwrap().expose_secret().len(), MAX_LEN);
        assert!(read(b"").unwrap_err().contains("empty") && read(b"\n1234").unwrap_err().contains("empty"));
        assert!(read(&[b'1'; 1000]).unwrap_err().contains("longer"));
        assert!(read(b"\xff").is_err());
        assert!(super::read("/none/such").unwrap_err().contains("No such file"));
    }
}
