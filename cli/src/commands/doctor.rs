//! `coffer doctor`: what this machine can do, before it is asked to.

use crate::{hygiene, output};
use anyhow::Result;
use coffer_kernels::Isa;
use coffer_mount::Namespace;

/// What this machine can do: instruction sets, cores, memory, what follows for running models, and how well it keeps secrets
/// off its disks.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Machine {
    version: &'static str,
    numeric_contract: &'static str,
    architecture: &'static str,
    os: &'static str,
    instruction_sets: Vec<&'static str>,
    instruction_set_used: String,
    cores: usize,
    memory_total_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    fuse: String,
    mount_namespace: String,
    /// Of an ordinary process; `null`: as much as it likes.
    lockable_memory_bytes: Option<u64>,
    swap: Option<bool>,
    core_pattern: Option<String>,
}

/// Looks and prints.
pub(crate) fn run(args: Args) -> Result<()> {
    let machine = Machine {
        version: env!("CARGO_PKG_VERSION"),
        numeric_contract: coffer_kernels::CONTRACT,
        architecture: std::env::consts::ARCH,
        os: std::env::consts::OS,
        instruction_sets: Isa::available().into_iter().map(Isa::name).collect(),
        instruction_set_used: Isa::detect().map_or_else(|e| e.to_string(), |isa| isa.name().to_owned()),
        cores: crate::model_input::threads(None),
        memory_total_bytes: coffer_mount::total_memory(),
        memory_available_bytes: coffer_mount::available_memory(),
        fuse: allowed(coffer_mount::fuse_available()),
        // This process gets one, and ends soon.
        mount_namespace: allowed(Namespace::enter()),
        lockable_memory_bytes: hygiene::lockable().unwrap_or(Some(0)),
        swap: coffer_mount::swap_is_on(),
        core_pattern: std::fs::read_to_string("/proc/sys/kernel/core_pattern").ok().map(|text| text.trim().to_owned()),
    };
    if args.json {
        return output::json(&machine);
    }
    let shown = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), output::bytes);
    outln!("coffer            {} (numeric contract {})", machine.version, machine.numeric_contract);
    outln!("machine           {} {}, {} cores", machine.os, machine.architecture, machine.cores);
    outln!(
        "instruction sets  {} (in use: {}; COFFER_ISA forces one)",
        machine.instruction_sets.join(", "),
        machine.instruction_set_used
    );
    outln!("memory            {}, {} free", shown(machine.memory_total_bytes), shown(machine.memory_available_bytes));
    secrets(&machine);
    outln!("same bits         every instruction set and thread count gives the same logits; `coffer assess` measures it");
    Ok(())
}

fn secrets(machine: &Machine) {
    outln!("coffer exec       /dev/fuse: {}; private mounts: {}", machine.fuse, machine.mount_namespace);
    let lockable = machine.lockable_memory_bytes.map_or_else(|| "all memory".to_owned(), output::bytes);
    let swap = match machine.swap {
        Some(true) => "on: keys are locked, models that run are not unless all memory can be",
        Some(false) => "off",
        None => "unknown",
    };
    outln!("swap              {swap} ({lockable} can be locked)");
    let pattern = machine.core_pattern.as_deref().unwrap_or("unknown");
    outln!("core dumps        off in every command that takes a key, and in what exec starts (core pattern here: {pattern})");
}

fn allowed<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|refused| refused.to_string(), |_| "allowed".to_owned())
}
