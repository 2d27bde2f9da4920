//! The result: a table, a JSON file.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::samples::{Summary, line};
use crate::report::{Machine, load, write_json};

/// All figures of a run, in nanoseconds a record.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    runs_per_size: usize,
    load_at_begin: String,
    load_at_end: String,
    /// A run that leaves the XDP program at once; taken off the others.
    empty_xdp: Summary,
    /// The same for the TC program.
    empty_tc: Summary,
    rows: Vec<Row>,
    open_line: Line,
    seal_line: Line,
}

/// One size.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Bytes of the inner packet.
    pub inner: usize,
    /// `xdp_rx` with a valid record.
    pub open: Summary,
    /// `xdp_rx` up to the AEAD.
    pub before_aead: Summary,
    /// `xdp_rx` up to its end.
    pub past_aead: Summary,
    /// `tc_tx`.
    pub seal: Summary,
    /// User space, CHACHA20-POLY1305.
    pub chacha_open: Summary,
    /// The same.
    pub chacha_seal: Summary,
    /// User space, AES-128-GCM.
    pub aes_open: Summary,
    /// The same.
    pub aes_seal: Summary,
}

/// The minimums as a straight line.
#[derive(Debug, Default, Serialize)]
struct Line {
    /// What no byte changes.
    intercept: f64,
    /// Of 64 bytes.
    per_block: f64,
}

impl Report {
    /// An empty report, with what the machine is.
    pub fn begin(runs_per_size: usize) -> Self {
        Self {
            machine: Machine::this(),
            runs_per_size,
            load_at_begin: load(),
            load_at_end: String::new(),
            empty_xdp: Summary::default(),
            empty_tc: Summary::default(),
            rows: Vec::new(),
            open_line: Line::default(),
            seal_line: Line::default(),
        }
    }

    /// Notes what was taken off.
    pub fn set_empty(&mut self, xdp: Summary, tc: Summary) {
        self.empty_xdp = xdp;
        self.empty_tc = tc;
    }

    /// Adds a size.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
        self.load_at_end = load();
        self.open_line = fit(&self.rows, |row| row.open.min);
        self.seal_line = fit(&self.rows, |row| row.seal.min);
    }

    /// Writes everything.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// The table for `docs/benchmarks.md`.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}; ns a record, least / median of {} runs a size; load average {} before, {} after\n\n",
            self.machine.shown(),
            self.runs_per_size,
            self.load_at_begin,
            self.load_at_end
        );
        text.push_str("| Inner bytes | open | before AEAD | AEAD | after it | seal ");
        text.push_str("| ChaCha open, seal in user space | AES-128-GCM open, seal |\n");
        text.push_str("|---:|---:|---:|---:|---:|---:|---:|---:|\n");
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.markdown());
        }
        let _ = writeln!(
            text,
            "\nLeast times as lines: open {:.0} + {:.0} per 64 bytes, seal {:.0} + {:.0}. \
             Taken off: {} (XDP), {} (TC).",
            self.open_line.intercept,
            self.open_line.per_block,
            self.seal_line.intercept,
            self.seal_line.per_block,
            shown(self.empty_xdp),
            shown(self.empty_tc)
        );
        text
    }
}

impl Row {
    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {:.0}, {:.0} | {:.0}, {:.0} |",
            self.inner,
            shown(self.open),
            shown(self.before_aead),
            shown(self.past_aead.without(self.before_aead)),
            shown(self.open.without(self.past_aead)),
            shown(self.seal),
            self.chacha_open.min,
            self.chacha_seal.min,
            self.aes_open.min,
            self.aes_seal.min
        )
    }
}

fn shown(summary: Summary) -> String {
    format!("{:.0} / {:.0}", summary.min, summary.median)
}

/// Over the sizes that are whole blocks.
fn fit(rows: &[Row], of: impl Fn(&Row) -> f64) -> Line {
    const BLOCK: usize = 64;
    let whole = rows.iter().filter(|row| row.inner % BLOCK == 0);
    let points: Vec<_> = whole
        .map(|row| (row.inner as f64 / BLOCK as f64, of(row)))
        .collect();
    if points.len() < 2 {
        return Line::default();
    }
    let (intercept, per_block) = line(&points);
    Line {
        intercept,
        per_block,
    }
}
