//! A conversation: each line of the input is answered, with everything before it in mind. What was computed for it is kept.

use super::{Args, message, turn};
use anyhow::{Context, Result};
use coffer_engine::{Engine, Generation};
use coffer_model::Message;
use coffer_store::Model;
use rustyline::{Config, Editor, error::ReadlineError, history::MemHistory};
use std::{
    io::{IsTerminal, stdin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Begins anew.
const FORGET: &str = "/new";

/// Talks until the input ends.
pub(super) fn run(args: &Args, model: &Model, engine: &Engine) -> Result<()> {
    let mut lines = Lines::new()?;
    let interrupted = lines.interrupted()?;
    let mut messages = args.opening();
    let mut generation = None;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => continue,
            FORGET => messages = args.opening(),
            text => {
                messages.push(message("user", text.to_owned()));
                interrupted.store(false, Ordering::Relaxed);
                // What cannot be answered is not kept: the next line may be shorter.
                if let Err(error) = answer(args, model, engine, &mut generation, &mut messages, &interrupted) {
                    messages.pop();
                    lines.failed(error)?;
                }
            }
        }
    }
    Ok(())
}

fn answer<'a>(
    args: &Args,
    model: &Model,
    engine: &'a Engine,
    generation: &mut Option<Generation<'a>>,
    messages: &mut Vec<Message>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let prompt = turn(model, messages)?;
    let generation = match generation {
        Some(generation) => {
            generation.restart(&prompt)?;
            generation
        }
        None => generation.insert(engine.generate(&prompt, args.sampling())?),
    };
    let answer = args.answer(model, generation, prompt.len(), interrupted)?;
    match args.json {
        true => outln!("{}", serde_json::to_string(&answer)?),
        false => {
            outln!();
            eprintln!("{answer}");
        }
    }
    messages.push(message("assistant", answer.text));
    Ok(())
}

/// Where lines come from.
enum Lines {
    /// With editing, and what was typed before; nothing of it reaches a disk.
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe,
}

impl Lines {
    fn new() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let history = MemHistory::new();
        let config = Config::builder().auto_add_history(true).build();
        let editor = Editor::with_history(config, history)?;
        eprintln!("{FORGET} begins anew, Ctrl-C interrupts an answer, Ctrl-D ends.");
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// Set whenever the user interrupts an answer. Without a terminal an interrupt ends the process, as ever.
    fn interrupted(&self) -> Result<Arc<AtomicBool>> {
        let flag = Arc::new(AtomicBool::new(false));
        if let Self::Terminal(_) = self {
            let set = flag.clone();
            ctrlc::set_handler(move || set.store(true, Ordering::Relaxed)).context("catching interrupts")?;
        }
        Ok(flag)
    }

    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Pipe => {
                let mut line = String::new();
                Ok((stdin().read_line(&mut line)? > 0).then_some(line))
            }
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
                Err(ReadlineError::Eof) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Whoever types goes on; a script ends.
    fn failed(&self, error: anyhow::Error) -> Result<()> {
        match self {
            Self::Pipe => Err(error),
            Self::Terminal(_) => {
                eprintln!("error: {error:#}");
                Ok(())
            }
        }
    }
}
