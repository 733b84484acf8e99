//! `coffer generate`: continue a prompt, or talk.

mod conversation;

use crate::{
    exit::Usage,
    model_input::{Compute, ModelArgs},
    output,
    progress::Style,
};
use anyhow::{Context, Result, ensure};
use coffer_engine::{Generation, SamplingParams};
use coffer_model::Message;
use coffer_store::Model;
use std::{
    io::Write,
    mem::ManuallyDrop,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// Continue a prompt, or answer it with --chat; without a prompt, talk: each line of the input is answered. The same seed gives the same
/// text on every machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    /// Text to continue; without one, a conversation begins
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// What the model is told before a conversation, or before --chat
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens to make at most, for each answer
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
    /// Print each answer and its figures as JSON, on a line of its own in a conversation
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
    /// Tokens of the prompt that the conversation has run before.
    kept_tokens: usize,
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
    let text = args.text(&model)?;
    let prompt = text.map(|text| args.prompt_tokens(&model, text)).transpose()?;
    // Weights are not wiped: the kernel clears the pages of a process that ends, and the user would wait for it twice.
    let engine = ManuallyDrop::new(args.compute.load(&model, args.progress)?);
    let Some(prompt) = prompt else { return conversation::run(&args, &model, &engine) };
    let answer = args.answer(&model, &mut engine.generate(&prompt, args.sampling())?, prompt.len(), &AtomicBool::new(false))?;
    if args.json {
        return output::json(&answer);
    }
    outln!();
    eprintln!("{answer}");
    Ok(())
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = if self.kept_tokens > 0 { format!(" ({} kept)", self.kept_tokens) } else { String::new() };
        write!(f, "[{} tokens in{kept} at {:.0}/s, ", self.prompt_tokens, self.prefill_tokens_per_second)?;
        write!(f, "{} out at {:.1}/s, {}]", self.completion_tokens, self.decode_tokens_per_second, self.finish_reason)
    }
}

impl Args {
    /// What is to be continued; `None` where a conversation is wanted.
    fn text(&self, model: &Model) -> Result<Option<String>> {
        let text = match (&self.prompt_file, &self.prompt) {
            (Some(path), _) => Some(self.model.identities.read_text(path)?),
            (None, text) => text.clone(),
        };
        ensure_usage(model.tokenizer.is_some(), &format!("{}: no tokenizer", self.model.path.display()))?;
        let talks = self.chat || text.is_none();
        let without = if text.is_some() { "leave out --chat" } else { "give a --prompt or a --prompt-file" };
        ensure_usage(!talks || model.template.is_some(), &format!("{}: no chat template; {without}", self.model.path.display()))?;
        ensure_usage(talks || self.system.is_none(), "--system belongs to a conversation or to --chat")?;
        Ok(text)
    }

    fn prompt_tokens(&self, model: &Model, text: String) -> Result<Vec<u32>> {
        let prompt = match self.chat {
            true => turn(model, &[self.opening(), vec![message("user", text)]].concat())?,
            false => encode(model, &text, true)?,
        };
        ensure!(!prompt.is_empty(), "the prompt has no tokens");
        Ok(prompt)
    }

    /// How a conversation begins.
    fn opening(&self) -> Vec<Message> {
        self.system.iter().map(|text| message("system", text.clone())).collect()
    }

    fn sampling(&self) -> SamplingParams {
        SamplingParams { temperature: self.temperature, top_p: self.top_p, seed: self.seed }
    }

    /// Takes tokens until the answer ends, somebody interrupts it, or there are enough; streams them unless JSON is wanted.
    fn answer(
        &self,
        model: &Model,
        generation: &mut Generation<'_>,
        prompt_tokens: usize,
        interrupted: &AtomicBool,
    ) -> Result<Answer> {
        let run = generation.pending();
        let mut bytes = Vec::new();
        let (mut finish_reason, mut first, mut made) = ("length", None, 0);
        let start = Instant::now();
        for choice in generation.take(self.max_tokens) {
            let token = choice?.token;
            first.get_or_insert_with(Instant::now);
            if interrupted.load(Ordering::Relaxed) {
                finish_reason = "interrupted";
                break;
            }
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
            prompt_tokens,
            kept_tokens: prompt_tokens - run,
            completion_tokens: made,
            finish_reason,
            prefill_tokens_per_second: run as f64 / (first - start).as_secs_f64().max(1e-9),
            decode_tokens_per_second: made.saturating_sub(1) as f64 / first.elapsed().as_secs_f64().max(1e-9),
        })
    }
}

fn message(role: &str, content: String) -> Message {
    Message { role: role.into(), content }
}

/// The tokens of a conversation, up to where the model's answer begins.
fn turn(model: &Model, messages: &[Message]) -> Result<Vec<u32>> {
    let template = model.template.as_ref().context("no chat template")?;
    encode(model, &template.render(messages, true)?, false)
}

fn encode(model: &Model, text: &str, add_special: bool) -> Result<Vec<u32>> {
    Ok(model.tokenizer.as_ref().context("no tokenizer")?.encode(text, add_special)?)
}

fn ensure_usage(holds: bool, message: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Usage(message.to_owned()).into()) }
}
