//! Files of keys: age identity files, also ones under a passphrase; OpenSSH private keys; RSA keys in PEM; lists of recipients.

use super::{Identity, KeyError, MAX_SCRYPT_LOG_N, Private, Prompt, Recipient, pem};
use crate::floor::Floor;
use age::armor::ArmoredReader;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    sync::Arc,
};
use zeroize::Zeroizing;

/// Largest file of keys that is read.
const MAX_KEY_FILE: u64 = 1 << 20;

pub(super) fn read_recipients(path: &Path) -> Result<Vec<Recipient>, KeyError> {
    let (bytes, name) = (read_bytes(path)?, path.display().to_string());
    if is_age_file(&bytes) {
        return Err(KeyError::EncryptedList(name));
    }
    let text = as_text(&bytes, path)?;
    if pem::is_public(text) {
        let refused = || KeyError::Pem(name);
        let key = pem::public_to_ssh(text).and_then(|ssh| Recipient::parse(&ssh).ok());
        return Ok(vec![key.ok_or_else(refused)?]);
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let recipients = lines.map(Recipient::parse).collect::<Result<Vec<_>, _>>()?;
    if recipients.is_empty() { Err(KeyError::Empty(name)) } else { Ok(recipients) }
}

pub(super) fn read_identities(path: &Path, prompt: &Arc<dyn Prompt>) -> Result<Vec<Identity>, KeyError> {
    let bytes = read_bytes(path)?;
    let name = path.display().to_string();
    let keys = if is_age_file(&bytes) {
        parse_lines(&decrypt(&bytes, &name, prompt)?, &name, prompt)?
    } else {
        let text = as_text(&bytes, path)?;
        match text.trim_start().starts_with("-----BEGIN") {
            true => vec![parse_pem(text.trim_start(), &name, prompt)?],
            false => parse_lines(text, &name, prompt)?,
        }
    };
    let floor = Arc::new(Floor::beside(path, prompt.clone()));
    Ok(keys.into_iter().map(|private| Identity { private, floor: Some(floor.clone()) }).collect())
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

/// A file of keys as text, bounded.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let bytes = read_bytes(path)?;
    as_text(&bytes, path).map(|text| Zeroizing::new(text.to_owned()))
}

fn parse_lines(text: &str, name: &str, prompt: &Arc<dyn Prompt>) -> Result<Vec<Private>, KeyError> {
    let lines = text.lines().enumerate().map(|(at, line)| (at, line.trim()));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parse = |(at, line)| Private::parse(line, prompt).ok_or_else(|| KeyError::Identity { path: name.into(), line: at + 1 });
    let keys = keys.map(parse).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err(KeyError::Empty(name.into())) } else { Ok(keys) }
}

fn parse_pem(text: &str, name: &str, prompt: &Arc<dyn Prompt>) -> Result<Private, KeyError> {
    let refused = || KeyError::Identity { path: name.into(), line: 1 };
    let encrypted = |remedy| KeyError::Encrypted { path: name.into(), remedy };
    let pkcs1 = match text.starts_with("-----BEGIN PRIVATE KEY-----") {
        true => Some(pem::private_to_pkcs1(text).ok_or_else(refused)?),
        false => None,
    };
    let text = pkcs1.as_ref().map_or(text, |text| text.as_str());
    if text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(encrypted("write it without one with `openssl pkey -in KEY -out COPY`"));
    }
    let key = match age::ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| refused())? {
        key @ age::ssh::Identity::Unencrypted(_) => key,
        age::ssh::Identity::Encrypted(key) => {
            let ask = prompt.secret(&format!("Passphrase of {name}"));
            let passphrase = ask.ok_or_else(|| encrypted("there is no terminal to ask for it"))?;
            key.decrypt(passphrase.into()).map_err(|_| KeyError::WrongPassphrase(name.into()))?.into()
        }
        age::ssh::Identity::Unsupported(_) => return Err(KeyError::Unsupported(name.into())),
    };
    let public = age::ssh::Recipient::try_from(key.clone()).map_err(|_| refused())?;
    // Refuses RSA keys that are too short or too long.
    Recipient::parse(&public.to_string()).map_err(|_| refused())?;
    Ok(Private::Ssh(Box::new(key)))
}

/// Whether it is an age file, in binary or in armor.
fn is_age_file(bytes: &[u8]) -> bool {
    bytes.starts_with(b"age-encryption.org/") || bytes.trim_ascii_start().starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// An age file without its armor, if it has one.
pub(super) fn binary(bytes: &[u8]) -> impl BufRead {
    // White space before it is allowed, which the age crate takes for damage.
    BufReader::new(ArmoredReader::new(bytes.trim_ascii_start()))
}

/// An identity file that `age -p` made, with or without `-a`.
fn decrypt(bytes: &[u8], name: &str, prompt: &Arc<dyn Prompt>) -> Result<Zeroizing<String>, KeyError> {
    let wrong = || KeyError::WrongPassphrase(name.into());
    let encrypted = |remedy| KeyError::Encrypted { path: name.into(), remedy };
    let decryptor = age::Decryptor::new_buffered(binary(bytes)).map_err(|_| wrong())?;
    if !decryptor.is_scrypt() {
        return Err(encrypted("not by a passphrase but for a key: decrypt it with `age -d -i KEY` first"));
    }
    let passphrase = prompt.secret(&format!("Passphrase of {name}"));
    let passphrase = passphrase.ok_or_else(|| encrypted("there is no terminal to ask for it"))?;
    let mut identity = age::scrypt::Identity::new(passphrase.into());
    identity.set_max_work_factor(MAX_SCRYPT_LOG_N);
    let reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|_| wrong())?;
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    reader.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(|_| wrong())?;
    Ok(text)
}

fn as_text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, KeyError> {
    let refused = |e| KeyError::Read { path: path.display().to_string(), source: io::Error::new(io::ErrorKind::InvalidData, e) };
    std::str::from_utf8(bytes).map_err(refused)
}

fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::Read { path: path.display().to_string(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_KEY_FILE {
        let what = format!("{size} bytes is too long for a file of keys (at most {MAX_KEY_FILE})");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    // Reserved at once: growing would leave copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.take(MAX_KEY_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
