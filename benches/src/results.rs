//! Rows of measurements: as JSON, as tables beside a reference's, and in RESULTS.md.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One workload; the fields that make no sense for it, or were not measured, are absent.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
#[serde(default)]
pub struct Run {
    /// On the device, back to back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_ms: Option<f64>,
    /// The sum of the kernels, each timed by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatches: Option<usize>,
    /// From inputs in host memory to outputs in host memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<f64>,
    /// Of the calling thread, until all is submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submit_ms: Option<f64>,
    /// Of the calling thread, a run of many that it submits one after another, inputs and outputs staying on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<f64>,
    /// From a call to its end, inputs and outputs staying where the program has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_ms: Option<f64>,
    /// Device memory, MB of 10^6 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<f64>,
    /// Relative Frobenius error, and the largest that is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// The error is not below the bound. Kept by itself, since JSON has no NaN.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wrong: bool,
    /// What the algorithm must at least read and write, or compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<f64>,
}

/// What one program measured: this one's `--json`, and what `--against` reads.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Report {
    /// Program and version, and on what it ran.
    pub name: String,
    #[serde(default)]
    pub device: String,
    /// Adapter, driver, versions, date.
    #[serde(default)]
    pub machine: String,
    /// What the device can do at most: bytes and operations a second.
    #[serde(default)]
    pub copy: Option<f64>,
    #[serde(default)]
    pub arithmetic: Option<f64>,
    pub runs: BTreeMap<String, Run>,
}

impl Run {
    /// NaN is wrong too.
    pub fn judge(&mut self, error: f64, bound: f64) {
        self.error = Some(error);
        self.bound = Some(bound);
        self.wrong = !matches!(error.partial_cmp(&bound), Some(std::cmp::Ordering::Less));
    }

    pub fn error_text(&self) -> String {
        match self.error {
            Some(it) if self.wrong => format!("WRONG {it:.1e}"),
            Some(it) => format!("{it:.1e}"),
            None if self.wrong => "WRONG".into(),
            None => "-".into(),
        }
    }
}

impl Report {
    pub fn read(path: &Path) -> Result<Report> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// All their workloads in one; of two with one name the later, all else from the first file. `None` without files.
    pub fn read_all(paths: &[PathBuf]) -> Result<Option<Report>> {
        let mut all: Option<Report> = None;
        for path in paths {
            let report = Report::read(path)?;
            match &mut all {
                Some(all) => all.runs.extend(report.runs),
                None => all = Some(report),
            }
        }
        Ok(all)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)?).with_context(|| path.display().to_string())
    }
}

/// A number, or a dash.
pub fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |it| format!("{it:.digits$}"))
}

pub fn ratio(own: Option<f64>, other: Option<f64>) -> String {
    shown(own.zip(other).map(|(own, other)| own / other), 2)
}

/// A table of RESULTS.md, its columns padded so that it can be read as text too.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: Vec<String>) -> Table {
        Table { rows: vec![header] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "one cell a column");
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub fn text(&self) -> String {
        let width = |at: usize| self.rows.iter().map(|it| it[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, numbers to the right.
                match at {
                    0 => write!(out, "| {cell:<width$} |").expect("a string"),
                    _ => write!(out, " {cell:>width$} |").expect("a string"),
                }
            }
            out.push('\n');
            if number == 0 {
                let rule = |(at, &width): (usize, &usize)| match at {
                    0 => format!("|{}|", "-".repeat(width + 2)),
                    _ => format!("{}:|", "-".repeat(width + 1)),
                };
                out.extend(widths.iter().enumerate().map(rule));
                out.push('\n');
            }
        }
        out
    }
}

/// Replaces the section of RESULTS.md that is headed by `heading`, or adds it.
pub fn record(heading: &str, text: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let old = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Measured\n".to_owned());
    std::fs::write(&path, with_section(&old, heading, text)).with_context(|| path.display().to_string())
}

fn with_section(old: &str, heading: &str, text: &str) -> String {
    let mut sections = old.split("\n## ");
    let mut all = sections.next().unwrap_or_default().trim_end().to_owned() + "\n";
    let mut found = false;
    for section in sections {
        match section.lines().next() == Some(heading) {
            true => {
                found = true;
                write!(all, "\n## {heading}\n\n{}\n", text.trim_end()).expect("a string");
            }
            false => write!(all, "\n## {}\n", section.trim_end()).expect("a string"),
        }
    }
    if !found {
        write!(all, "\n## {heading}\n\n{}\n", text.trim_end()).expect("a string");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_replaced_and_others_stay() {
        let old = "# Measured\n\n## a\n\n| 1 |\n\n## b\n\n| 2 |\n";
        assert_eq!(with_section(old, "a", "| 3 |\n"), "# Measured\n\n## a\n\n| 3 |\n\n## b\n\n| 2 |\n");
        let added = with_section(old, "c", "| 3 |");
        assert_eq!(added, old.to_owned() + "\n## c\n\n| 3 |\n");
        assert_eq!(with_section(&added, "c", "| 3 |"), added);
    }

    #[test]
    fn what_is_no_number_is_wrong() {
        let run = |error| {
            let mut run = Run::default();
            run.judge(error, 1e-5);
            run
        };
        assert!(!run(1e-6).wrong && run(1e-5).wrong && run(f64::NAN).wrong);
        let kept = serde_json::to_string(&run(f64::NAN)).unwrap();
        assert!(serde_json::from_str::<Run>(&kept).unwrap().wrong, "{kept}");
    }
}
