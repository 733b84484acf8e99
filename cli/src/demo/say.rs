//! How the demo speaks: a heading a step, indented lines, a mark before what was shown.

use std::io::IsTerminal;

/// Heading of a step: what it does, and the question that it answers.
pub(super) fn step(number: usize, title: &str, question: &str) {
    outln!("\n{} {question}", bold(&format!("{number}  {title}:")));
}

/// Lines of a step.
pub(super) fn line(text: &str) {
    for one in text.lines() {
        outln!("   {one}");
    }
}

/// Something that was shown to hold.
pub(super) fn shown(text: &str) {
    line(&format!("✓ {text}"));
}

/// An attempt that had to be refused, and was.
pub(super) fn refused(text: &str) {
    line(&format!("✓ refused: {text}"));
}

fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}
