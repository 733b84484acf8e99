//! `coffer exec`: any engine on a sealed model.

use crate::{
    exit::{Passed, Usage},
    hygiene,
    model_input::Identities,
    progress::{Progress, Style},
    signatures::DemandedOfOne,
    supervise,
};
use anyhow::{Context, Result, ensure};
use coffer_mount::{Mounted, Namespace, Way};
use coffer_seal::bundle::Bundle;
use std::{
    ffi::{OsStr, OsString},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::{CommandExt, parent_id},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Run any engine on a sealed model. {} in the command stands for the model: for the file, if the bundle holds one,
/// else for the directory; {}/NAME is always the file NAME in the directory. The files are read-only, decrypted in
/// memory as they are read, visible to the command and what it starts, and gone when it ends. The exit code is the
/// command's own (128 + n if signal n ended it).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sealed bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    signed: DemandedOfOne,
    /// How to show progress, where all is decrypted before the command starts
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
    /// The command, after `--`; {} stands for the model
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command and passes its exit code on.
pub(crate) fn run(args: Args) -> Result<()> {
    if !args.command.iter().skip(1).any(|argument| holds_braces(argument)) {
        let usage = "exec: no {} in the command, so it would not see the model; for example -- llama-server -m {}";
        return Err(Usage(usage.into()).into());
    }
    // First of all, while there is one thread and /proc/self may be written to.
    let namespace = Namespace::enter();
    ensure!(Bundle::is_bundle(&args.bundle), "{}: no sealed bundle; a plain model needs no exec", args.bundle.display());
    let files = args.signed.files(&args.bundle, args.identities.load_for(&args.bundle)?)?;
    let mut progress = Progress::bytes(args.progress, "decrypting");
    let on_error = Box::new(|error: &str| eprintln!("error: {error}"));
    let mounted = Mounted::new(&files, namespace, on_error, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    warn(mounted.way());
    let mut command = args.command.iter().enumerate();
    let (root, model) = (mounted.root(), mounted.model());
    let filled = command.by_ref().map(|(at, argument)| if at == 0 { argument.clone() } else { fill(argument, root, &model) });
    let code = supervise::run(&filled.collect::<Vec<_>>())?;
    drop(mounted);
    Err(Passed(code).into())
}

fn warn(way: Way) {
    if way != Way::Fuse {
        eprintln!("note: /dev/fuse cannot be used here; the whole model was decrypted into memory first");
    }
    if coffer_mount::swap_is_on() == Some(true) {
        eprintln!("note: swap is on; what the command keeps in its own memory may be written to it");
    }
}

fn holds_braces(argument: &OsStr) -> bool {
    argument.as_bytes().windows(2).any(|pair| pair == b"{}")
}

/// `argument` with `{}/` replaced by the directory and every other `{}` by what stands for the model.
fn fill(argument: &OsStr, root: &Path, model: &Path) -> OsString {
    let mut out = Vec::new();
    let mut rest = argument.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(b"{}") {
            Some(after) => {
                let path = if after.starts_with(b"/") { root } else { model };
                out.extend_from_slice(path.as_os_str().as_bytes());
                rest = after;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// What `exec` starts in its place: becomes the command, and dies with `exec` even where that is killed.
#[derive(clap::Args)]
pub(crate) struct Child {
    /// Process that must still be the parent
    parent: u32,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command; comes back only if that fails, with the codes that shells give.
pub(crate) fn become_child(args: &Child) -> Result<()> {
    hygiene::die_with_parent()?;
    supervise::unblock()?;
    ensure!(parent_id() == args.parent, "exec: ended before its command began");
    let (program, arguments) = args.command.split_first().context("exec: no command")?;
    let error = Command::new(program).args(arguments).exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    eprintln!("error: exec: {}: {error}", program.display());
    Err(Passed(ExitCode::from(if missing { 127 } else { 126 })).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_become_paths() {
        let fill = |argument: &str| fill(argument.as_ref(), Path::new("/m"), Path::new("/m/a.gguf")).into_string().unwrap();
        for (argument, expected) in [
            ("{}", "/m/a.gguf"),
            ("--model={}", "--model=/m/a.gguf"),
            ("{}/tokenizer.json", "/m/tokenizer.json"),
            ("{}:{}/b", "/m/a.gguf:/m/b"),
            ("{", "{"),
            ("{ }", "{ }"),
            ("{{}}", "{/m/a.gguf}"),
            ("", ""),
        ] {
            assert_eq!(fill(argument), expected);
        }
    }
}
