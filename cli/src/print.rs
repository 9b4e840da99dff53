//! What goes to standard output: text as it comes, and tables.
//!
//! A reader that stops reading (`wgfuse inspect M | head`) is no error: what is left is dropped.

use std::{
    fmt::Display,
    io::{ErrorKind, IsTerminal, Write},
};

pub use wgfuse::report::{bytes, count, seconds};

/// Columns that a table may fill on a terminal.
const TERMINAL_COLUMNS: usize = 80;

/// Writes one line to standard output.
macro_rules! say {
    ($($arg:tt)*) => { $crate::print::line(format_args!($($arg)*)) };
}
pub(crate) use say;

pub fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("wgfuse: standard output cannot be written: {error}");
    }
}

/// Prints a value for programs.
pub fn json(value: &serde_json::Value) {
    line(format_args!("{value:#}"));
}

#[derive(Clone, Copy, PartialEq)]
pub enum Align {
    Left,
    Right,
}

/// Rows under a header. One column, the first that is aligned left unless `give` names another, is cut where a row is
/// wider than the terminal.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    give: usize,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        let give = columns.iter().position(|it| it.1 == Align::Left).unwrap_or(0);
        Table { columns: columns.to_vec(), rows: Vec::new(), give }
    }

    pub fn give(mut self, column: usize) -> Table {
        self.give = column;
        self
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "one cell a column");
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints it, indented by two.
    pub fn print(&self) {
        let limit = std::io::stdout().is_terminal().then_some(TERMINAL_COLUMNS);
        line(self.text(limit).trim_end_matches('\n'));
    }

    fn text(&self, limit: Option<usize>) -> String {
        let header = self.columns.iter().map(|it| it.0.to_string()).collect();
        let rows: Vec<&Vec<String>> = [&header].into_iter().chain(&self.rows).collect();
        let width = |at: usize| rows.iter().map(|it| it[at].chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let total = |widths: &[usize]| 2 + widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        if let Some(over) = limit.and_then(|it| total(&widths).checked_sub(it)) {
            widths[self.give] = widths[self.give].saturating_sub(over).max(8);
        }
        let mut text = String::new();
        for row in rows {
            let cells = row.iter().zip(&self.columns).zip(&widths).map(|((cell, (_, align)), &width)| {
                let cell = cut(cell, width);
                match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
            text += format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end();
            text.push('\n');
        }
        text
    }
}

/// `text`, its middle left out where it is longer than `width`.
pub fn cut(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_string();
    }
    let head = width.saturating_sub(2) / 2;
    let tail = width.saturating_sub(2 + head);
    let chars: Vec<char> = text.chars().collect();
    chars[..head].iter().chain(&['.', '.']).chain(&chars[count - tail..]).collect()
}

/// A value of a tensor, to about seven digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        it if value.fract() == 0.0 && it < 1e15 => format!("{value:.0}"),
        1e-3..1e6 => format!("{value:.7}"),
        _ => format!("{value:.6e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_give() {
        let mut table = Table::new(&[("name", Align::Left), ("bytes", Align::Right)]);
        table.row(vec!["a".into(), "12".into()]);
        table.row(vec!["matmul_add_gelu".into(), "3".into()]);
        assert_eq!(
            table.text(None),
            "  name             bytes\n  a                   12\n  matmul_add_gelu      3\n"
        );
        assert_eq!(
            table.text(Some(20)),
            "  name         bytes\n  a               12\n  matm..gelu.      3\n"
                .replace("matm..gelu.", &cut("matmul_add_gelu", 11))
        );
        assert_eq!(cut("matmul_add_gelu", 11), "matm.._gelu");
    }

    #[test]
    fn quantities() {
        assert_eq!(
            [0.0, -3.0, 0.25, 1.5e-5, f64::NAN].map(number),
            ["0", "-3", "0.2500000", "1.500000e-5", "NaN"]
        );
        assert_eq!(
            (bytes(9_999), bytes(12_345), bytes(45_000_000)),
            ("9999 B".into(), "12.3 KB".into(), "45.0 MB".into())
        );
        assert_eq!(
            (seconds(2e-6), seconds(0.0123), seconds(2.0)),
            ("2.0 us".into(), "12.30 ms".into(), "2.00 s".into())
        );
        assert_eq!((count(1, "kernel"), count(2, "kernel")), ("1 kernel".into(), "2 kernels".into()));
    }
}
