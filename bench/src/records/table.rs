//! The result of the figure.

use std::fmt::Write as _;

use serde::Serialize;

use super::contender::Kind;
use super::{Case, Sample};
use crate::report::{Samples, digits};

/// All samples of all cases.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// What the servers chose.
    ciphers: Vec<(Kind, String)>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    case: Case,
    cells: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    kind: Kind,
    /// Nanoseconds of the gateway's processor for each packet.
    cost_ns: Samples,
    packets_per_second: Samples,
    /// Shares.
    lost: Samples,
    /// Shares; of the kernel path alone.
    in_kernel: Samples,
}

impl Table {
    /// Remembers the record protection of a contender.
    pub fn note_cipher(&mut self, kind: Kind, cipher: String) {
        let entry = (kind, cipher);
        if !self.ciphers.contains(&entry) {
            self.ciphers.push(entry);
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, case: Case, kind: Kind, sample: &Sample) {
        let cell = self.cell(case, kind);
        cell.cost_ns.push(sample.cost());
        cell.packets_per_second.push(sample.rate());
        cell.lost.push(sample.loss());
        if let Some(share) = sample.in_kernel {
            cell.in_kernel.push(share);
        }
    }

    fn cell(&mut self, case: Case, kind: Kind) -> &mut Cell {
        let at = self.rows.iter().position(|row| row.case == case);
        let at = at.unwrap_or_else(|| {
            let cells = Kind::ALL.map(Cell::new).into();
            self.rows.push(Row { case, cells });
            self.rows.len() - 1
        });
        &mut self.rows[at].cells[kind as usize]
    }

    /// Costs, and below them rates, as `docs/benchmarks.md` has them; nothing if nothing was measured.
    pub fn markdown(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        for (kind, cipher) in &self.ciphers {
            let _ = writeln!(text, "- records, {}: {cipher}", kind.text());
        }
        text.push_str("\nGateway's processor time, ns a packet:\n\n");
        self.part(&mut text, |cell| &cell.cost_ns, 1.0);
        text.push_str("\nThousand packets a second:\n\n");
        self.part(&mut text, |cell| &cell.packets_per_second, 1e-3);
        text
    }

    fn part(&self, text: &mut String, samples: impl Fn(&Cell) -> &Samples, scale: f64) {
        let titles = Kind::ALL.map(Kind::text).join(" | ");
        let _ = writeln!(text, "| | {titles} | auto / ocserv | auto / plain |");
        text.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
        for row in &self.rows {
            let shown = row
                .cells
                .iter()
                .map(|cell| samples(cell).times(scale).shown());
            let shown = shown.collect::<Vec<_>>().join(" | ");
            let median = |kind: Kind| samples(&row.cells[kind as usize]).median();
            let ratio = |kind| {
                let (ours, other) = (median(Kind::OursKernel)?, median(kind)?);
                Some(digits(ours / other))
            };
            let ratio = |kind| ratio(kind).unwrap_or_else(|| "–".to_owned());
            let (to_reference, to_plain) = (ratio(Kind::Reference), ratio(Kind::Plain));
            let case = row.case;
            let _ = writeln!(text, "| {case} | {shown} | {to_reference} | {to_plain} |");
        }
    }
}

impl Cell {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            cost_ns: Samples::default(),
            packets_per_second: Samples::default(),
            lost: Samples::default(),
            in_kernel: Samples::default(),
        }
    }
}
