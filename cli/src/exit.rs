//! Exit codes: 0 done, 1 the tool failed, 2 wrong usage, 3 a gate said no; of `exec`, those of its command.

use coffer_seal::bundle::BundleError;
use coffer_store::StoreError;
use std::process::ExitCode;

/// A gate (policy, verification, unsafe file) said no. The details were already printed where they belong.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused: {}", self.0)
    }
}
impl std::error::Error for Refused {}

/// A command that was run for the user ended with this code. Nothing is left to say.
#[derive(Debug)]
pub(crate) struct Passed(pub(crate) ExitCode);

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the command has ended")
    }
}
impl std::error::Error for Passed {}

/// The flags contradict each other, or a value cannot be meant.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Usage {}

/// Prints `error` with its causes on stderr and gives the exit code that it stands for.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(clap) = error.downcast_ref::<clap::Error>() {
        // Printing fails only when stderr is gone; the exit code still tells.
        let _ = clap.print();
        return ExitCode::from(if clap.use_stderr() { 2 } else { 0 });
    }
    if let Some(Passed(code)) = error.downcast_ref() {
        return *code;
    }
    // No URL is shown with a user or a query: they can be credentials.
    eprintln!("error: {}", coffer_seal::place::redact(&chain(error)));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Refused>() || is_rollback(error) {
        3
    } else if error.is::<Usage>() {
        2
    } else {
        1
    }
}

fn is_rollback(error: &anyhow::Error) -> bool {
    let bundle = error.downcast_ref::<BundleError>().or_else(|| match error.downcast_ref::<StoreError>() {
        Some(StoreError::Bundle(e)) => Some(e),
        _ => None,
    });
    matches!(bundle, Some(BundleError::Rollback { .. }))
}

/// The causes in one line, leaving out those that only repeat what was said.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
