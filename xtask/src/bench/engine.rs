//! The engine beside llama.cpp: two threads each, same files.

use super::{Row, THREADS, alternate, limits, llama, machine, ours, rotate, server, synthetic};
use crate::peers::{Peers, output};
use anyhow::{Context, Result};
use coffer_checkpoint::TensorInfo;
use coffer_kernels::Isa;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const PREFILL: usize = 512;
const DECODE: usize = 64;
/// Of commands that make one token.
const CONTEXT: usize = 512;
/// Positions before a decoded token, as far as SmolLM2's context goes.
const DEPTHS: [usize; 3] = [1024, 4096, 8192 - DECODE - 1];

/// A model under a name.
struct Subject {
    name: String,
    gguf: PathBuf,
}

/// SmolLM2 as it is published, also deep into its context, and the synthetic 1.1 B shape in several formats; then whole commands and servers.
/// Only subjects whose names contain `only`.
pub(crate) fn rows(peers: &Peers, repeat: usize, only: &str, row: &mut dyn FnMut(Row)) -> Result<()> {
    let smol = Subject { name: "SmolLM2-135M Q4_1".to_owned(), gguf: peers.smollm2()? };
    let mut large = Vec::new();
    if let Some(synthetic) = synthetic(peers)? {
        for kind in ["Q4_0", "Q8_0", "Q4_K_M"] {
            large.push(Subject { name: format!("1.1 B {kind}"), gguf: quantized(peers, &synthetic, kind)? });
        }
    }
    let (native, bench) = (Isa::detect()?, peers.llama("llama-bench")?);
    let integers = ("integer peak", limits::integers(native));
    let wanted = |subject: &&Subject| subject.name.contains(only);
    for subject in std::iter::once(&smol).chain(&large).filter(wanted) {
        subject.passes(repeat, native, &bench, [1.6, 2.2], Some(integers), row)?;
    }
    if wanted(&&smol) {
        smol.depths(repeat, native, &bench, row)?;
    }
    let floats = synthetic(peers)?.map(|synthetic| quantized(peers, &synthetic, "BF16")).transpose()?;
    let floats = floats.map(|gguf| Subject { name: "1.1 B BF16".to_owned(), gguf });
    for subject in floats.iter().filter(wanted) {
        subject.prefill(repeat, native, &bench, 1.0, Some(("float peak", limits::floats(native))), row)?;
    }
    for subject in large.iter().filter(wanted) {
        subject.first_token(peers, repeat, row)?;
    }
    for subject in std::iter::once(&smol).chain(large.first()).filter(wanted) {
        let (ours, peer) = alternate(repeat, || server::ours(peers, &subject.gguf), || server::llama(peers, &subject.gguf))?;
        row(Row::rate(format!("{}, server, {} at a time", subject.name, server::CLIENTS), ours, peer, "tok/s").aim(2.0));
    }
    if native == Isa::Avx512 {
        let narrow = large.into_iter().map(|s| Subject { name: format!("{}, AVX2", s.name), ..s });
        for subject in narrow.filter(|subject| wanted(&subject)) {
            let bench = peers.llama_avx2("llama-bench")?;
            subject.passes(repeat, Isa::Avx2, &bench, [1.0, 1.0], None, row)?;
        }
    }
    Ok(())
}

impl Subject {
    /// Decode and prefill, beside the peer and beside what the machine could do.
    fn passes(
        &self,
        repeat: usize,
        isa: Isa,
        bench: &Path,
        [decode, prefill]: [f64; 2],
        peak: Option<(&'static str, f64)>,
        row: &mut dyn FnMut(Row),
    ) -> Result<()> {
        let engine = ours::load(&self.gguf, isa)?;
        let bytes = self.weights(|t| t.bytes())?;
        // Neighbours of a virtual machine share its memory: what it could do changes from one second to the next.
        let [limit, ours, peer] = rotate(
            repeat,
            [&mut || Ok(limits::bandwidth(bytes as usize)), &mut || ours::decode(&engine, 1, DECODE, 0), &mut || {
                llama::bench(bench, &self.gguf, 0, DECODE, 0)
            }],
        )?;
        drop(engine);
        let decoded = Row::rate(format!("{}, decode {DECODE}", self.name), ours, peer, "tok/s").aim(decode);
        row(match peak {
            None => decoded,
            Some(_) => decoded.share("bandwidth", ours * bytes as f64 / limit),
        });
        self.prefill(repeat, isa, bench, prefill, peak, row)
    }

    fn prefill(
        &self,
        repeat: usize,
        isa: Isa,
        bench: &Path,
        aim: f64,
        peak: Option<(&'static str, f64)>,
        row: &mut dyn FnMut(Row),
    ) -> Result<()> {
        let engine = ours::load(&self.gguf, isa)?;
        let (ours, peer) =
            alternate(repeat, || ours::prefill(&engine, PREFILL), || llama::bench(bench, &self.gguf, PREFILL, 0, 0))?;
        let prefill = Row::rate(format!("{}, prefill {PREFILL}", self.name), ours, peer, "tok/s").aim(aim);
        // The head is run for the last token alone, and the embedding is looked up.
        let products = self.weights(|t| if t.name.starts_with("model.layers.") { t.elements() } else { Some(0) })?;
        row(match peak {
            None => prefill,
            Some((name, peak)) => prefill.share(name, ours * products as f64 / peak),
        });
        Ok(())
    }

    /// A sum over the tensors that each token passes.
    fn weights(&self, of: impl Fn(&TensorInfo) -> Option<u64>) -> Result<u64> {
        let model = coffer_store::open(&self.gguf, &[])?;
        let index = model.weights.index();
        let head = index.find("lm_head.weight").is_some();
        // An embedding that is the head too is read whole.
        let passed = index.iter().filter(|(_, t)| !head || t.name != "model.embed_tokens.weight");
        passed.map(|(_, t)| of(t)).sum::<Option<u64>>().context("a size that fits")
    }

    fn depths(&self, repeat: usize, isa: Isa, bench: &Path, row: &mut dyn FnMut(Row)) -> Result<()> {
        let engine = ours::load(&self.gguf, isa)?;
        for depth in DEPTHS {
            let (ours, peer) = alternate(
                repeat,
                || ours::decode(&engine, 1, DECODE, depth),
                || llama::bench(bench, &self.gguf, 0, DECODE, depth),
            )?;
            row(Row::rate(format!("{}, decode {DECODE} after {depth}", self.name), ours, peer, "tok/s"));
        }
        Ok(())
    }

    /// From nothing to a first token, and the memory that it took beside the size of the weights and of keys and values.
    fn first_token(&self, peers: &Peers, repeat: usize, row: &mut dyn FnMut(Row)) -> Result<()> {
        let llama = peers.llama("llama-completion")?;
        let [threads, context] = [THREADS, CONTEXT].map(|n| n.to_string());
        let common = ["--threads", &threads];
        let model = coffer_store::open(&self.gguf, &[])?;
        machine::cache(&self.gguf)?;
        let mut peak = 0.0f64;
        let (ours, peer) = alternate(
            repeat,
            || {
                machine::ready(model.weight_bytes)?;
                let mut generate = peers.coffer("generate")?;
                generate.arg(&self.gguf).args(["--prompt", "The", "--max-tokens", "1", "--context", &context]).args(common);
                let spent = machine::watch(&mut generate)?;
                peak = peak.max(spent.peak);
                Ok(spent.seconds)
            },
            || {
                machine::ready(model.weight_bytes)?;
                let mut completion = Command::new(&llama);
                completion
                    .arg("-m")
                    .arg(&self.gguf)
                    .args(["-p", "The", "-n", "1", "-c", &context, "-no-cnv", "--no-warmup"])
                    .args(common);
                Ok(machine::watch(&mut completion)?.seconds)
            },
        )?;
        row(Row::cost(format!("{}, load to first token", self.name), ours, peer, "s").aim(1.0));
        let keys_and_values = ours::load(&self.gguf, Isa::detect()?)?.cache(CONTEXT)?.bytes();
        let needed = (model.weight_bytes as f64 + keys_and_values as f64) / 1e6;
        row(Row::cost(format!("{}, peak memory beside what it must", self.name), peak, needed, "MB").at_most(1.1));
        Ok(())
    }
}

/// The GGUF file of a type, made once into the cache.
pub(super) fn quantized(peers: &Peers, model: &Path, kind: &str) -> Result<PathBuf> {
    let out = peers.cache().join(format!("synthetic-1b-{kind}.gguf"));
    if !out.exists() {
        // BF16 is what the shape is in already.
        let mut command = peers.coffer(if kind == "BF16" { "convert" } else { "quantize" })?;
        if kind != "BF16" {
            command.args(["--type", kind, "--no-eval"]);
        }
        output(command.arg(model).arg("-o").arg(&out))?;
    }
    Ok(out)
}
