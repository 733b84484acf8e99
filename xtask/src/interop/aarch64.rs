//! The numeric contract on another kind of machine: built for aarch64 and run by qemu, with and without the dot product.

use super::Outcome;
use crate::peers::{Peers, output, run};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Debian's: a compiler, its library for the target, and a linker.
const PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev:arm64", "gcc-aarch64-linux-gnu"];
/// Processors that qemu plays: NEON with and without the dot product.
const PROCESSORS: [&str; 2] = ["max", "cortex-a53"];

/// The kernels' contract, the golden bits of every family and those of methods of quantization: every instruction set that the
/// processor has gives them.
pub(crate) fn contract(peers: &Peers, _: &Path) -> Result<Outcome> {
    let qemu = peers.debian_package("qemu-aarch64", "qemu-user")?;
    let compiler = compiler()?;
    let (kernels, engine) =
        (build(peers, &compiler, "coffer-kernels", "contract")?, build(peers, &compiler, "coffer-engine", "engine")?);
    let methods = build(peers, &compiler, "coffer-compress", "golden")?;
    let [with_dot, without] = PROCESSORS;
    let contract = passed(Command::new(&qemu).args(["-cpu", with_dot]).arg(kernels))?;
    for processor in PROCESSORS {
        passed(Command::new(&qemu).args(["-cpu", processor]).arg(&engine).arg("golden"))?;
    }
    passed(Command::new(&qemu).args(["-cpu", with_dot]).arg(methods).arg("gptq_in_types_of_gguf"))?;
    Ok(Outcome::Passed(format!(
        "{contract} tests of the contract on cpu {with_dot}; golden bits of every family there and on {without}, and of what \
         quantizing makes"
    )))
}

/// A compiler that has the target's library: the one in use, or Debian's.
fn compiler() -> Result<PathBuf> {
    let used = PathBuf::from(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let debian = PathBuf::from("/usr/bin/rustc");
    let linker = || output(Command::new(LINKER).arg("--version")).is_ok();
    if has_target(&used) && linker() {
        return Ok(used);
    }
    if !(has_target(&debian) && linker()) {
        run(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get").args(["install", "-y", "-qq"]).args(PACKAGES).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    if !has_target(&debian) {
        bail!("neither {} nor {} has the standard library for {TARGET}", used.display(), debian.display());
    }
    Ok(debian)
}

fn has_target(rustc: &Path) -> bool {
    let folder = output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    folder.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Builds a test for the target, linked statically: qemu then needs no library of the target's.
fn build(peers: &Peers, compiler: &Path, package: &str, test: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--quiet", "--no-run", "--message-format=json", "--target", TARGET, "-p", package, "--test", test]);
    cargo.arg("--target-dir").arg(peers.target().join("aarch64")).current_dir(peers.root()).env("RUSTC", compiler);
    let setting = |name: &str| format!("CARGO_TARGET_{}_{name}", TARGET.to_uppercase().replace('-', "_"));
    cargo.env(setting("LINKER"), LINKER).env(setting("RUSTFLAGS"), "-C target-feature=+crt-static");
    let messages = output(&mut cargo)?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    };
    messages.lines().rev().find_map(executable).with_context(|| format!("cargo built no test {test} of {package}"))
}

/// How many tests a run says have passed; at least one.
fn passed(test: &mut Command) -> Result<usize> {
    let printed = output(test)?;
    let passed = printed.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
    passed.filter(|&n| n > 0).with_context(|| format!("no test ran:\n{printed}"))
}
