//! Passphrases: from the terminal, or from a file or descriptor. Never from an argument or the environment.

use crate::exit::Usage;
use anyhow::{Context, Result};
use coffer_seal::keys::Prompt;
use std::{
    fs::File,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

/// Longest passphrase that is read from a file, in bytes.
const MAX_LEN: u64 = 4096;

/// The person at the terminal.
pub(crate) struct Terminal;

impl Prompt for Terminal {
    fn secret(&self, what: &str) -> Option<String> {
        // Asks the terminal itself, whatever stdin is.
        rpassword::prompt_password(format!("{what}: ")).ok()
    }

    fn tell(&self, message: &str) {
        eprintln!("{message}");
    }
}

/// A passphrase that opens something; `None` if neither flag was given.
pub(crate) fn existing(ask: bool, file: Option<&Path>) -> Result<Option<String>> {
    match (file, ask) {
        (Some(path), _) => read(path).map(Some),
        (None, true) => self::ask("Passphrase").map(Some),
        (None, false) => Ok(None),
    }
}

/// A new passphrase, asked for twice; `None` if neither flag was given.
pub(crate) fn new(ask: bool, file: Option<&PathBuf>) -> Result<Option<String>> {
    let passphrase = match (file, ask) {
        (Some(path), _) => read(path)?,
        (None, true) => {
            let first = self::ask("New passphrase")?;
            if self::ask("The same again")? != first {
                return Err(Usage("the two passphrases differ; nothing was written".into()).into());
            }
            first
        }
        (None, false) => return Ok(None),
    };
    Ok(Some(passphrase))
}

fn ask(what: &str) -> Result<String> {
    if !std::io::stderr().is_terminal() && File::open("/dev/tty").is_err() {
        return Err(Usage("there is no terminal to ask for a passphrase; use --passphrase-file".into()).into());
    }
    let passphrase = rpassword::prompt_password(format!("{what}: ")).context("asking for the passphrase")?;
    refuse_empty(passphrase, "passphrase", "the terminal")
}

fn read(path: &Path) -> Result<String> {
    first_line(path, "passphrase")
}

/// A secret, the first line of a file, pipe or descriptor (`/dev/fd/3`). `what` it is, for errors.
pub(crate) fn first_line(path: &Path, what: &str) -> Result<String> {
    let name = path.display().to_string();
    let mut text = String::with_capacity(MAX_LEN as usize + 1);
    let file = File::open(path).with_context(|| name.clone())?;
    file.take(MAX_LEN + 1).read_to_string(&mut text).with_context(|| name.clone())?;
    if text.len() as u64 > MAX_LEN {
        return Err(Usage(format!("{name}: longer than {MAX_LEN} bytes, which is no {what}")).into());
    }
    text.truncate(text.find(['\r', '\n']).unwrap_or(text.len()));
    refuse_empty(text, what, &name)
}

fn refuse_empty(secret: String, what: &str, from: &str) -> Result<String> {
    match secret.is_empty() {
        true => Err(Usage(format!("{from}: the {what} is empty")).into()),
        false => Ok(secret),
    }
}
