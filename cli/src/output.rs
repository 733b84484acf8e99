//! Tables, figures with units, JSON.

use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// `print!` that goes on when nobody reads any more (`coffer … | head`): the exit code still tells.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// `println!`, likewise.
macro_rules! outln {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Behind [`out!`] and [`outln!`].
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    // The reader is gone: there is nobody left to tell.
    let _ = std::io::stdout().write_fmt(text);
}

/// Prints `value` as indented JSON on stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    outln!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// `1.23 GB`, decimal units as disks and downloads use them.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `8,392,960`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A table of left-aligned text: the first row is its head, columns as wide as they need.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with `head`; a title that starts with `>` makes its column right-aligned.
    pub(crate) fn new(head: &[&str]) -> Self {
        let right = head.iter().map(|h| h.starts_with('>')).collect();
        Self { rows: vec![head.iter().map(|h| h.trim_start_matches('>').to_owned()).collect()], right }
    }
    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
                line.push(' ');
                line += &if self.right[c] { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
                line.push(' ');
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_people_write_them() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(16_794_064), "16.8 MB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(count(8_392_960), "8,392,960");
        assert_eq!(count(12), "12");
    }
}
