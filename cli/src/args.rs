//! The command tree. Each command's flags stand beside what the command does.

use crate::{commands, demo};
use clap::{Parser, Subcommand};

/// From a checkpoint to an encrypted answer, with the risks measured on the way.
#[derive(Parser)]
#[command(name = "coffer", version, max_term_width = 100, help_template = HELP, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const HELP: &str = "\
{about}

{usage-heading} coffer COMMAND [OPTIONS]

Look
  demo       See all of it on a small model: one command, offline, under a minute
  inspect    What a model is: shape, tensors, tokenizer, digests
  scan       Whether a file can hurt whoever loads it (exit 3: unsafe)
  eval       Perplexity of a model on a text, or its distance from a reference
  diff       Which tensors of two models differ, and what that does to the answers
  doctor     What this machine can do

Change
  convert    Hugging Face directory <-> GGUF
  merge      Several models or adapters into one, from a mergekit recipe
  prune      Set weights to zero
  imatrix    What a text shows about which columns count
  quantize   Fewer bits per weight, and what that loses (exit 3: too much)
  gather     What several processes quantized, as one model

Protect
  keygen     Make a key
  seal       Encrypt a model for its recipients
  open       Decrypt a sealed model
  rekey      Change who can open it
  push       Copy a sealed bundle into an object store
  exec       Run any engine on a sealed model
  sign       Sign a model
  verify     Whether a model is what somebody signed (exit 3: it is not)

Prove
  certify    Record what a model computes, to the bit, and check it on another machine
  assess     Measure the four risks of variants against a reference, and decide by policy

Serve
  generate   Continue a prompt
  serve      OpenAI-compatible server with encrypted requests
  keys       API keys of the server

`coffer COMMAND --help` explains a command and its flags. Every flag has an environment variable
(COFFER_FLAG_NAME) and a place in coffer.toml ([command] flag-name = ...).
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate said no.
";

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),
    Inspect(commands::inspect::Args),
    Scan(commands::scan::Args),
    Eval(commands::eval::Args),
    Diff(commands::diff::Args),
    Doctor(commands::doctor::Args),
    Convert(commands::convert::Args),
    Merge(commands::merge::Args),
    Prune(commands::prune::Args),
    Imatrix(commands::imatrix::Args),
    Quantize(commands::quantize::Args),
    Gather(commands::gather::Args),
    Keygen(commands::keygen::Args),
    Seal(commands::seal::Args),
    Open(commands::open::Args),
    Rekey(commands::rekey::Args),
    Push(commands::push::Args),
    Exec(commands::exec::Args),
    #[command(hide = true)]
    ExecChild(commands::exec::Child),
    Sign(commands::sign::Args),
    Verify(commands::verify::Args),
    Certify(commands::certify::Args),
    Assess(commands::assess::Args),
    Generate(commands::generate::Args),
    Serve(commands::serve::Args),
    Keys(commands::keys::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn help_lists_every_command_and_no_other() {
        let listed: Vec<&str> = HELP.lines().filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next()).collect();
        let built: Vec<String> =
            Cli::command().get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
        assert_eq!(listed, built);
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
