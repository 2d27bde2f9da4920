//! The result: progress lines, a table, a JSON file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Scale;
use crate::records::{PeerTable, Table};
use crate::side::SideName;
use crate::stress;
use crate::targets::{self, Verdict};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// All samples of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    rounds: usize,
    sessions: usize,
    load_at_begin: String,
    load_at_end: String,
    ciphers: Vec<String>,
    figures: Vec<Figure>,
    /// What packets cost.
    pub records: Table,
    /// What packets cost with client programs, other VPNs' among them.
    pub peers: PeerTable,
    /// How it stands with the project's aims; filled in at the end.
    targets: Vec<Verdict>,
    /// What load, floods and time do.
    pub stress: stress::Results,
    #[serde(skip)]
    started: Instant,
}

/// What it was measured on.
#[derive(Debug, Serialize)]
pub struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    unit: &'static str,
    better: Better,
    reference: Samples,
    ours: Samples,
}

/// Numbers of one kind, in the order of the rounds.
#[derive(Debug, Default, Serialize)]
pub struct Samples(Vec<f64>);

impl Report {
    /// An empty report, with what the machine is.
    pub fn begin(scale: Scale) -> Self {
        Self {
            machine: Machine::this(),
            rounds: scale.rounds,
            sessions: scale.sessions,
            load_at_begin: load(),
            load_at_end: String::new(),
            ciphers: Vec::new(),
            figures: Vec::new(),
            records: Table::default(),
            peers: PeerTable::default(),
            targets: Vec::new(),
            stress: stress::Results::default(),
            started: Instant::now(),
        }
    }

    /// Adds one sample of a figure.
    pub fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        better: Better,
        side: SideName,
        value: f64,
    ) {
        let at = self.figures.iter().position(|figure| figure.name == name);
        let at = at.unwrap_or_else(|| {
            self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                better,
                reference: Samples::default(),
                ours: Samples::default(),
            });
            self.figures.len() - 1
        });
        self.figures[at].samples_mut(side).0.push(value);
    }

    /// Remembers what TLS agreed on.
    pub fn note_cipher(&mut self, side: SideName, certificate: &str, cipher: &str) {
        let line = format!("{}, {certificate}: {cipher}", side.text());
        if !self.ciphers.contains(&line) {
            self.ciphers.push(line);
        }
    }

    /// Shows that something was measured.
    pub fn progress(&self, line: &str) {
        println!("[{:>3.0} s] {line}", self.started.elapsed().as_secs_f64());
    }

    /// Notes the load at the end of the run, and judges what was measured.
    pub fn end(&mut self) {
        self.load_at_end = load();
        self.targets = targets::judge(self);
    }

    /// What ours has of a figure as a multiple of the reference's, by medians; `None` if one of them was
    /// not measured.
    pub fn ratio(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name)?;
        figure.ratio()
    }

    /// Writes everything, each sample included.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Writes the picture of what packets cost, and returns whether there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_svg(&self, path: &Path) -> Result<bool> {
        let Some(picture) = self.records.svg(&self.machine.shown()) else {
            return Ok(false);
        };
        write(path, &picture)?;
        Ok(true)
    }

    /// The table for `docs/benchmarks.md`.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}; {} rounds, medians (least – most); load average {} before, {} after\n",
            self.machine.shown(),
            self.rounds,
            self.load_at_begin,
            self.load_at_end
        );
        for cipher in &self.ciphers {
            let _ = writeln!(text, "- {cipher}");
        }
        text.push_str(&self.records.markdown());
        text.push_str(&self.peers.markdown());
        text.push_str(&self.stress.markdown());
        text.push_str(&self.figures_markdown());
        text.push_str(&targets::markdown(&self.targets));
        text
    }

    fn figures_markdown(&self) -> String {
        let mut text = String::new();
        if self.figures.is_empty() {
            return text;
        }
        text.push_str("\n| Figure | Unit | ocserv 1.1.6 | ours | ours / reference | |\n");
        text.push_str("|---|---|---:|---:|---:|---|\n");
        for figure in &self.figures {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                figure.name,
                figure.unit,
                figure.reference.shown(),
                figure.ours.shown(),
                figure.verdict()
            );
        }
        text
    }
}

impl Figure {
    fn samples_mut(&mut self, side: SideName) -> &mut Samples {
        match side {
            SideName::Reference => &mut self.reference,
            SideName::Ours => &mut self.ours,
        }
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.ours.median()? / self.reference.median()?)
    }

    fn verdict(&self) -> String {
        let Some(ratio) = self.ratio() else {
            return "| ".to_owned();
        };
        let is_good = match self.better {
            Better::Higher => ratio >= 1.0,
            Better::Lower => ratio <= 1.0,
        };
        let word = if is_good { "better" } else { "WORSE" };
        format!("{ratio:.2} | {word}")
    }
}

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The same in another unit.
    pub fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }

    /// The middle one; `None` without any.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(sorted[middle - 1], upper))
    }

    /// The least and the most; `None` without any.
    pub fn extremes(&self) -> Option<(f64, f64)> {
        let samples = || self.0.iter().copied();
        Some((samples().reduce(f64::min)?, samples().reduce(f64::max)?))
    }

    /// The median, with the least and the most.
    pub fn shown(&self) -> String {
        let (Some(median), Some((least, most))) = (self.median(), self.extremes()) else {
            return "–".to_owned();
        };
        if self.0.len() < 2 {
            return digits(median);
        }
        format!("{} ({} – {})", digits(median), digits(least), digits(most))
    }
}

/// About three significant digits.
pub fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models: Vec<_> = info
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|line| line.split_once(": "))
            .map(|(_, model)| model)
            .collect();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: models.first().copied().unwrap_or("?").to_owned(),
            processors: models.len(),
            kernel: kernel.trim().to_owned(),
        }
    }

    /// In one line.
    pub fn shown(&self) -> String {
        format!(
            "{} x {}, Linux {}",
            self.processors, self.processor, self.kernel
        )
    }
}

/// Writes a report to a file, whose directory is made if it is missing.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(path: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Samples, digits};

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(Samples(vec![]).median(), None);
        assert_eq!(Samples(vec![9.0, 1.0, 5.0]).median(), Some(5.0));
        assert_eq!(Samples(vec![9.0, 1.0, 5.0, 6.0]).median(), Some(5.5));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [digits(0.123), digits(12.34), digits(1234.5)],
            ["0.12", "12.3", "1234"]
        );
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).shown(), "2.00 (1.00 – 3.00)");
    }
}
