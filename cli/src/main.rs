//! The `coffer` command: parse, call, print. Everything that computes lives in the crates below.

#[macro_use]
mod output;

mod args;
mod client;
mod commands;
mod demo;
mod exit;
mod hygiene;
mod learning;
mod model_input;
mod passphrase;
mod progress;
mod recipients;
mod remote;
mod settings;
mod signatures;
mod supervise;
mod unfinished;
mod work;

use clap::FromArgMatches;
use std::process::ExitCode;

/// Prompts, answers and keys pass through buffers of many libraries; whatever is freed is wiped first.
#[global_allocator]
static WIPING: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let matches = match settings::command().and_then(|command| Ok(command.try_get_matches()?)) {
        Ok(matches) => matches,
        Err(error) => return exit::report(&error),
    };
    remote::register();
    let parsed = args::Cli::from_arg_matches(&matches).map_err(Into::into);
    match parsed.and_then(|cli| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
