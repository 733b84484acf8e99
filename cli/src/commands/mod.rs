//! One file a command: its flags, then what it does.

pub(crate) mod assess;
pub(crate) mod bundle;
pub(crate) mod certify;
pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod exec;
pub(crate) mod gather;
pub(crate) mod generate;
pub(crate) mod imatrix;
pub(crate) mod inspect;
pub(crate) mod inspect_data;
pub(crate) mod keygen;
pub(crate) mod keys;
pub(crate) mod making;
pub(crate) mod merge;
pub(crate) mod open;
pub(crate) mod outcome;
pub(crate) mod prune;
pub(crate) mod push;
pub(crate) mod quantize;
pub(crate) mod rekey;
pub(crate) mod scan;
pub(crate) mod seal;
pub(crate) mod serve;
pub(crate) mod sign;
pub(crate) mod verify;

use crate::{args::Command, demo};
use anyhow::Result;

/// Runs `command`.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Scan(args) => scan::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Prune(args) => prune::run(args),
        Command::Imatrix(args) => imatrix::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Gather(args) => gather::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Seal(args) => seal::run(args),
        Command::Open(args) => open::run(args),
        Command::Rekey(args) => rekey::run(args),
        Command::Push(args) => push::run(args),
        Command::Exec(args) => exec::run(args),
        Command::ExecChild(args) => exec::become_child(&args),
        Command::Sign(args) => sign::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Certify(args) => certify::run(args),
        Command::Assess(args) => assess::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Keys(args) => keys::run(args),
    }
}
