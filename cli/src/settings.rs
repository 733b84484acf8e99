//! Where a flag's value may come from, strongest first: the command line, the environment (`COFFER_FLAG_NAME`),
//! `coffer.toml` in the working directory (`[command] flag-name = …`), the built-in default.
//!
//! Secrets have no flag that holds them: only paths to them.

use crate::{args::Cli, exit::Usage};
use anyhow::Result;
use clap::{Arg, ArgAction, Command, CommandFactory, builder::FalseyValueParser};
use std::path::Path;

/// The whole command line with environment variables and the settings file laid under it.
pub(crate) fn command() -> Result<Command> {
    let file = read(Path::new("coffer.toml"))?;
    let mut command = Cli::command();
    let names: Vec<String> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
    for (section, _) in &file {
        if !names.contains(section) {
            return Err(Usage(format!("coffer.toml: [{section}] is no command; see `coffer help`")).into());
        }
    }
    for name in names {
        let section = file
            .get(&name)
            .map(|s| s.as_table().cloned().ok_or_else(|| Usage(format!("coffer.toml: `{name}` must be a table"))))
            .transpose()?;
        let mut problem = None;
        command = command.mut_subcommand(&name, |sub| with_sources(sub, &section.unwrap_or_default(), &mut problem));
        if let Some(problem) = problem {
            return Err(Usage(format!("coffer.toml: [{name}] {problem}")).into());
        }
    }
    Ok(command)
}

fn read(path: &Path) -> Result<toml::Table> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|e| Usage(format!("{}: {e}", path.display())).into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(toml::Table::new()),
        Err(e) => Err(anyhow::anyhow!("{}: {e}", path.display())),
    }
}

/// Lays the sources under the flags of `command`; those of its subcommands share its section.
fn with_sources(mut command: Command, section: &toml::Table, problem: &mut Option<String>) -> Command {
    let known = flags(&command);
    if let Some(unknown) = section.keys().find(|k| !known.contains(k)) {
        *problem = Some(format!("`{unknown}` is no flag of this command"));
    }
    let nested: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in nested {
        command = command.mut_subcommand(&name, |sub| {
            let own = flags(&sub);
            let shared = section.iter().filter(|(key, _)| own.contains(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
            with_sources(sub, &shared, problem)
        });
    }
    command.mut_args(|arg| with_source(arg, section, problem))
}

fn with_source(arg: Arg, section: &toml::Table, problem: &mut Option<String>) -> Arg {
    let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
    if matches!(arg.get_action(), ArgAction::Help | ArgAction::Version) {
        return arg;
    }
    let arg = arg.env(format!("COFFER_{}", long.to_uppercase().replace('-', "_"))).hide_env(true);
    // A switch is on for anything but `0`, `no`, `false` and the like.
    let switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = if switch { arg.value_parser(FalseyValueParser::new()) } else { arg };
    match section.get(&long).map(as_arguments) {
        Some(Ok(values)) => arg.default_values(values).required(false),
        Some(Err(kind)) => {
            *problem = Some(format!("`{long}` cannot be {kind}"));
            arg
        }
        None => arg,
    }
}

/// Long flags of `command` and of its subcommands.
fn flags(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

fn as_arguments(value: &toml::Value) -> Result<Vec<String>, &'static str> {
    match value {
        toml::Value::String(s) => Ok(vec![s.clone()]),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok(vec![value.to_string()]),
        toml::Value::Array(items) => items.iter().map(as_arguments).collect::<Result<Vec<_>, _>>().map(|v| v.concat()),
        toml::Value::Table(_) => Err("a table"),
        toml::Value::Datetime(_) => Err("a date"),
    }
}
