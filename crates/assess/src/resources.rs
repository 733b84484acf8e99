//! Load time, speed and peak memory. Peak memory is that of the whole process: measure each model in a fresh one.

use crate::error::{AssessError, Named};
use coffer_engine::{Engine, EngineError, LoadOptions, Span, Want};
use coffer_store::Model;
use std::time::{Duration, Instant};

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions {
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
    /// Tokens to continue with, at least one.
    pub decode: usize,
    /// Runs of which the fastest counts, at least one.
    pub runs: usize,
}

impl Default for SpeedOptions {
    fn default() -> Self {
        Self { prompt: 256, decode: 64, runs: 3 }
    }
}

/// What a model costs to run. Written by one process and read by another.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Seconds to read and pack the weights.
    pub load_seconds: f64,
    /// Tokens of the prompt.
    pub prefill_tokens: usize,
    /// Prompt tokens a second.
    pub prefill_tokens_per_second: f64,
    /// Tokens that were made.
    pub decode_tokens: usize,
    /// Tokens made a second.
    pub decode_tokens_per_second: f64,
    /// Largest resident set of the process in bytes; `None` where the system does not say.
    pub peak_memory: Option<u64>,
}

/// Loads the model and runs it. Prompt and continuation are cut to what the context holds.
///
/// # Errors
/// The model cannot be loaded or run.
pub fn measure(name: &str, model: &Model, load: LoadOptions, speed: SpeedOptions) -> Result<Resources, AssessError> {
    let start = Instant::now();
    let engine = Engine::load(&model.config, &*model.weights, load, &mut |_, _| {}).of(name)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let prompt_tokens = speed.prompt.clamp(1, engine.context().saturating_sub(1).max(1));
    let decode_tokens = speed.decode.clamp(1, (engine.context() - prompt_tokens).max(1));
    let prompt = sample_tokens(prompt_tokens, engine.config().vocab);
    let (mut prefill, mut decode) = (Duration::MAX, Duration::MAX);
    for _ in 0..speed.runs.max(1) {
        let (p, d) = run(&engine, &prompt, decode_tokens).of(name)?;
        (prefill, decode) = (prefill.min(p), decode.min(d));
    }
    Ok(Resources {
        isa: load.isa.name().to_owned(),
        threads: load.threads,
        load_seconds,
        prefill_tokens: prompt_tokens,
        prefill_tokens_per_second: prompt_tokens as f64 / prefill.as_secs_f64(),
        decode_tokens,
        decode_tokens_per_second: decode_tokens as f64 / decode.as_secs_f64(),
        peak_memory: peak_memory(),
    })
}

/// Largest resident set of this process so far, in bytes (`VmHWM` in proc(5)); `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Times one prompt and one continuation, greedy and without end tokens, so that every model does the same work.
fn run(engine: &Engine, prompt: &[u32], decode_tokens: usize) -> Result<(Duration, Duration), EngineError> {
    let mut cache = engine.cache(engine.context().min(prompt.len() + decode_tokens))?;
    let start = Instant::now();
    let mut logits = engine.forward(&mut [Span { cache: &mut cache, tokens: prompt, want: Want::Last }])?;
    let prefill = start.elapsed();
    let start = Instant::now();
    for _ in 0..decode_tokens {
        let next = coffer_engine::sampling::top(&logits, 1).first().map_or(0, |choice| choice.token);
        logits = engine.forward(&mut [Span { cache: &mut cache, tokens: &[next], want: Want::Last }])?;
    }
    Ok((prefill, start.elapsed()))
}

/// Tokens spread over the vocabulary, always the same (a multiplicative sequence).
fn sample_tokens(n: usize, vocab: usize) -> Vec<u32> {
    (1..=n as u64).map(|i| (i.wrapping_mul(2_654_435_761) % vocab.max(1) as u64) as u32).collect()
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_from_the_status_file() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1_263_616));
        assert_eq!(parse_peak("Name:\tx\n"), None);
        assert_eq!(parse_peak("VmHWM:\t many kB\n"), None);
        assert_eq!(parse_peak("VmHWM:\t 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn sample_tokens_lie_in_the_vocabulary() {
        let tokens = sample_tokens(1000, 97);
        assert!(tokens.iter().all(|&t| t < 97));
        assert_eq!(tokens, sample_tokens(1000, 97));
    }
}
