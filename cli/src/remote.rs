//! URLs where paths are expected: read if this build can, and never written to in passing.

use crate::{args::Cli, exit::Usage};
use anyhow::Result;
use clap::{ArgMatches, CommandFactory};
use coffer_seal::place;
use std::path::Path;

/// What a build without the feature `remote` says to a URL.
#[cfg(not(feature = "remote"))]
pub(crate) const ABSENT: &str = "this build has no remote stores: cargo install --path cli --features remote";

/// Registers who opens URLs, and refuses those that stand where something is to be written.
pub(crate) fn prepare(matches: &ArgMatches) -> Result<()> {
    #[cfg(feature = "remote")]
    coffer_remote::register();
    #[cfg(not(feature = "remote"))]
    place::register(|_| Err(std::io::Error::new(std::io::ErrorKind::Unsupported, ABSENT)));
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    let command = Cli::command();
    let outputs =
        command.find_subcommand(name).into_iter().flat_map(|c| c.get_arguments()).filter(|a| a.get_short() == Some('o'));
    for output in outputs {
        let values = given.try_get_raw(output.get_id().as_str()).ok().flatten();
        for value in values.into_iter().flatten() {
            refuse(Path::new(value), "outputs are written on this machine")?;
        }
    }
    Ok(())
}

/// Refuses a URL, for the reason `why`.
pub(crate) fn refuse(path: &Path, why: &str) -> Result<()> {
    match place::url(path) {
        None => Ok(()),
        Some(url) => Err(Usage(format!("{url}: {why}; a sealed bundle gets there with `coffer push BUNDLE URL`")).into()),
    }
}
