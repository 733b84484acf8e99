//! `coffer doctor`: what this machine can do, before it is asked to.

use crate::output;
use anyhow::Result;
use coffer_kernels::Isa;

/// What this machine can do: instruction sets, cores, memory, and what follows for running models.
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
        memory_total_bytes: memory("MemTotal:"),
        memory_available_bytes: memory("MemAvailable:"),
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
    outln!("same bits         every instruction set and thread count gives the same logits; `coffer assess` measures it");
    Ok(())
}

/// A line of /proc/meminfo in bytes; `None` where there is no such file.
fn memory(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}
