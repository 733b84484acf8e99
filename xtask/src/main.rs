//! Chores of the project that need other people's programs: `cargo xtask interop` checks Coffer against its real
//! peers, `cargo xtask bench` times it beside them.

mod bench;
mod interop;
mod peer_server;
mod peers;
#[path = "../../cli/src/demo/wiretap.rs"]
mod wiretap;

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Parser)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check Coffer against its real peers; installs them on the first run (ten to twenty minutes)
    Interop(interop::Args),
    /// Time Coffer beside its real peers in one run
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Xtask::parse().command {
        Command::Interop(args) => interop::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
