//! `coffer generate`: continue a prompt.

use crate::{
    exit::Usage,
    model_input::{Compute, ModelArgs},
    output,
    progress::Style,
};
use anyhow::{Result, ensure};
use coffer_engine::SamplingParams;
use coffer_model::Message;
use coffer_store::Model;
use std::{io::Write, mem::ManuallyDrop, path::PathBuf, time::Instant};

/// Continue a prompt, or answer it with --chat. The same seed gives the same text on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    /// Text to continue
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// Tokens to make at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 200)]
    max_tokens: usize,
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Seed of the random choice
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Print the answer and its figures as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

#[derive(serde::Serialize)]
struct Answer {
    text: String,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish_reason: &'static str,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

/// Generates, streaming to stdout.
pub(crate) fn run(args: Args) -> Result<()> {
    ensure_usage(args.temperature.is_finite() && args.temperature >= 0.0, "--temperature must be 0 or more")?;
    ensure_usage(args.top_p > 0.0 && args.top_p <= 1.0, "--top-p must be above 0 and at most 1")?;
    let model = args.model.open()?;
    let prompt = args.prompt_tokens(&model)?;
    ensure!(!prompt.is_empty(), "the prompt has no tokens");
    // Weights are not wiped: the kernel clears the pages of a process that ends, and the user would wait for it twice.
    let engine = ManuallyDrop::new(args.compute.load(&model, args.progress)?);
    let answer = args.generate(&model, &engine, &prompt)?;
    if args.json {
        return output::json(&answer);
    }
    outln!();
    eprintln!(
        "[{} tokens in at {:.0}/s, {} out at {:.1}/s, {}]",
        answer.prompt_tokens,
        answer.prefill_tokens_per_second,
        answer.completion_tokens,
        answer.decode_tokens_per_second,
        answer.finish_reason
    );
    Ok(())
}

impl Args {
    fn prompt_tokens(&self, model: &Model) -> Result<Vec<u32>> {
        let text = match (&self.prompt_file, &self.prompt) {
            (Some(path), _) => self.model.identities.read_text(path)?,
            (None, Some(text)) => text.clone(),
            (None, None) => return Err(Usage("generate needs a --prompt or a --prompt-file".to_owned()).into()),
        };
        let tokenizer = model.tokenizer.as_ref().ok_or_else(|| Usage(format!("{}: no tokenizer", self.model.path.display())))?;
        if !self.chat {
            return Ok(tokenizer.encode(&text, true)?);
        }
        let template = model
            .template
            .as_ref()
            .ok_or_else(|| Usage(format!("{}: no chat template; leave out --chat", self.model.path.display())))?;
        let rendered = template.render(&[Message { role: "user".into(), content: text }], true)?;
        Ok(tokenizer.encode(&rendered, false)?)
    }

    fn generate(&self, model: &Model, engine: &coffer_engine::Engine, prompt: &[u32]) -> Result<Answer> {
        let sampling = SamplingParams { temperature: self.temperature, top_p: self.top_p, seed: self.seed };
        let mut bytes = Vec::new();
        let (mut finish_reason, mut first, mut made) = ("length", None, 0);
        let start = Instant::now();
        for choice in engine.generate(prompt, sampling)?.take(self.max_tokens) {
            let token = choice?.token;
            first.get_or_insert_with(Instant::now);
            if model.config.eos.contains(&token) {
                finish_reason = "stop";
                break;
            }
            made += 1;
            let piece = model.tokenizer.as_ref().map(|t| t.token_bytes(token)).unwrap_or_default();
            if !self.json {
                let mut out = std::io::stdout().lock();
                out.write_all(&piece)?;
                out.flush()?;
            }
            bytes.extend(piece);
        }
        let first = first.unwrap_or(start);
        Ok(Answer {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            prompt_tokens: prompt.len(),
            completion_tokens: made,
            finish_reason,
            prefill_tokens_per_second: prompt.len() as f64 / (first - start).as_secs_f64().max(1e-9),
            decode_tokens_per_second: made.saturating_sub(1) as f64 / first.elapsed().as_secs_f64().max(1e-9),
        })
    }
}

fn ensure_usage(holds: bool, message: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Usage(message.to_owned()).into()) }
}
