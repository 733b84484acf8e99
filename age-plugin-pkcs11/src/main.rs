//! `age-plugin-pkcs11`: called by age clients, and by people to see which keys there are.

use age_plugin_pkcs11::{
    listing::{Listing, list},
    plugin,
};
use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};
use std::process::ExitCode;

/// Lists the P-256 keys on PKCS#11 tokens as an age identity file, with the recipient (age1tag1…) of each. The file holds no
/// secret. age clients call this program by themselves when they meet such an identity; the PIN is then asked for.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// What age clients say
    #[arg(long, hide = true, value_name = "STATE")]
    age_plugin: Option<String>,
    /// The token's PKCS#11 library, for instance /usr/lib/softhsm/libsofthsm2.so or opensc-pkcs11.so, as an absolute path
    #[arg(long, value_name = "PATH")]
    module: Option<String>,
    /// Only the token with this label
    #[arg(long, value_name = "LABEL")]
    token: Option<String>,
    /// Write into the identities that the PIN is the first line of this file or descriptor, so that nobody is asked
    #[arg(long, value_name = "FILE")]
    pin_source: Option<String>,
    /// Log in with the PIN in this file before listing; some tokens need it to show their keys
    #[arg(long, value_name = "FILE")]
    login_with: Option<String>,
}

fn main() -> ExitCode {
    protect();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("age-plugin-pkcs11: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(state) = &arguments.age_plugin {
        return plugin::run(state).context("talking to the age client");
    }
    let Some(module) = arguments.module else { bail!("which tokens? Name their library by --module PATH") };
    let (token, pin_source, login_with) = (arguments.token, arguments.pin_source, arguments.login_with);
    print!("{}", list(&Listing { module, token, pin_source, login_with })?);
    Ok(())
}

/// No core dump: a PIN and a file key are in memory. Where the system refuses, age clients do no better.
fn protect() {
    let _ = prctl::set_dumpable(false);
    // Not 0: see core(5) on `|` patterns.
    let _ = setrlimit(Resource::RLIMIT_CORE, 1, 1);
}
