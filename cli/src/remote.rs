//! URLs where paths are expected: read if this build can, and never written to in passing.

use crate::exit::Usage;
use anyhow::Result;
use clap::{
    Arg, Command, Error,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};
use coffer_seal::place;
use std::{
    ffi::OsStr,
    ops::Deref,
    path::{Path, PathBuf},
};

/// What a build without the feature `remote` says to a URL.
#[cfg(not(feature = "remote"))]
pub(crate) const ABSENT: &str = "this build reaches no remote stores and no https: cargo install --path cli --features remote";

/// Registers who opens URLs.
pub(crate) fn register() {
    #[cfg(feature = "remote")]
    coffer_remote::register();
    #[cfg(not(feature = "remote"))]
    place::register(|_| Err(std::io::Error::new(std::io::ErrorKind::Unsupported, ABSENT)));
}

/// Refuses a URL, for the reason `why`.
pub(crate) fn refuse(path: &Path, why: &str) -> Result<()> {
    match refusal(path, why) {
        None => Ok(()),
        Some(refusal) => Err(Usage(refusal).into()),
    }
}

fn refusal(path: &Path, why: &str) -> Option<String> {
    let url = place::url(path)?;
    Some(format!("{}: {why}; a sealed bundle gets there with `coffer push BUNDLE URL`", place::redact(url)))
}

/// Where a command writes: no URL.
#[derive(Clone)]
pub(crate) struct Output(PathBuf);

impl Deref for Output {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl ValueParserFactory for Output {
    type Parser = OutputParser;

    fn value_parser() -> OutputParser {
        OutputParser
    }
}

/// Reads an [`Output`] from the command line.
#[derive(Clone)]
pub(crate) struct OutputParser;

impl TypedValueParser for OutputParser {
    type Value = Output;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Output, Error> {
        match refusal(Path::new(value), "outputs are written on this machine") {
            None => Ok(Output(value.into())),
            Some(refusal) => Err(Error::raw(ErrorKind::ValueValidation, refusal).with_cmd(command)),
        }
    }
}
