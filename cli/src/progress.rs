//! Progress of long work on stderr: a bar on a terminal, one JSON object a line with `--progress json`, silence otherwise.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// A bar if stderr is a terminal.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

/// Progress of one piece of work, measured in bytes or steps.
pub(crate) struct Progress {
    style: Style,
    what: String,
    bar: ProgressBar,
    last: Option<Instant>,
}

impl Progress {
    /// Starts to report on `what`, in bytes.
    pub(crate) fn bytes(style: Style, what: &str) -> Self {
        Self::new(style, what, "{msg:24} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }
    /// Starts to report on `what`, in steps.
    pub(crate) fn steps(style: Style, what: &str) -> Self {
        Self::new(style, what, "{msg:24} {bar:30} {pos}/{len} {eta}")
    }

    fn new(style: Style, what: &str, template: &str) -> Self {
        let shown = style == Style::Auto && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let look = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), target).with_style(look).with_message(what.to_owned());
        Self { style, what: what.to_owned(), bar, last: None }
    }

    /// `done` of `total`.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let due = self.last.is_none_or(|t| t.elapsed() > Duration::from_millis(250)) || done == total;
        if self.style == Style::Json && due {
            self.last = Some(Instant::now());
            eprintln!("{}", serde_json::json!({ "work": self.what, "done": done, "total": total }));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
