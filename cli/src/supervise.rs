//! Runs a command as if the user had typed it: its terminal, its signals, its exit code.

use crate::hygiene;
use anyhow::{Context, Result};
use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::SignalFd,
    },
    unistd::Pid,
};
use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitCode, ExitStatus},
};

/// Signals that ask a program to do something; the terminal's own stops and starts reach the command anyway.
const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// `si_code` of a signal that the kernel sent: what a terminal sends, it sends to the command too.
const SI_KERNEL: i32 = 0x80;

/// Runs `command` to its end and gives its exit code, 128 + n if signal n ended it.
pub(crate) fn run(command: &[OsString]) -> Result<ExitCode> {
    // A blocked signal waits in the descriptor.
    let signals = watched();
    signals.thread_block()?;
    let queue = SignalFd::new(&signals)?;
    let mut child = Command::new(hygiene::THIS_PROGRAM)
        .arg("exec-child")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(command)
        .spawn()
        .with_context(|| format!("exec: {}", hygiene::THIS_PROGRAM))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(code(status));
        }
        if let Some(info) = queue.read_signal()? {
            forward(&child, info.ssi_signo, info.ssi_code)?;
        }
    }
}

/// Undoes what the command would inherit of that.
pub(crate) fn unblock() -> nix::Result<()> {
    watched().thread_unblock()
}

fn watched() -> SigSet {
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect()
}

fn forward(child: &Child, number: u32, origin: i32) -> Result<()> {
    let signal = Signal::try_from(number as i32)?;
    if signal != Signal::SIGCHLD && origin != SI_KERNEL {
        // It fails only if the child is gone, and then SIGCHLD is on its way.
        let _ = kill(Pid::from_raw(child.id() as i32), signal);
    }
    Ok(())
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|n| 128 + n)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
