//! The result of the figure.

use std::fmt::Write as _;

use serde::Serialize;

use super::plot::{Panel, Place, Plot, Point};
use super::sample::Sample;
use super::{Case, Direction, Kind, Traffic};
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

    /// The middle cost of a case in nanoseconds; `None` if it was not measured.
    pub fn cost(&self, case: Case, kind: Kind) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.case == case)?;
        row.cells[kind as usize].cost_ns.median()
    }

    /// Costs, ratios, rates and shares, as `docs/benchmarks.md` has them; nothing if nothing was
    /// measured.
    pub fn markdown(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        for (kind, cipher) in &self.ciphers {
            let _ = writeln!(text, "- records, {}: {cipher}", kind.text());
        }
        let titles = || Kind::ALL.map(Kind::text).map(str::to_owned).to_vec();
        text += "\nGateway's processor time, ns a packet:\n\n";
        self.part(&mut text, &titles(), |row| {
            row.shown(1.0, |cell| &cell.cost_ns)
        });
        text += "\nThat of ours as a multiple of ocserv's, and of plain forwarding's:\n\n";
        let others = [Kind::Reference, Kind::Plain];
        let pairs = || {
            others
                .into_iter()
                .flat_map(|other| Kind::OURS.map(|ours| (ours, other)))
        };
        let names = pairs().map(|(ours, other)| format!("{} / {}", ours.word(), other.word()));
        self.part(&mut text, &names.collect::<Vec<_>>(), |row| {
            pairs()
                .map(|(ours, other)| row.ratio(ours, other))
                .collect()
        });
        text += "\nThousand packets a second:\n\n";
        self.part(&mut text, &titles(), |row| {
            row.shown(1e-3, |cell| &cell.packets_per_second)
        });
        text += "\nShare of the packets that passed in the kernel, %:\n\n";
        let kinds = Kind::OURS.into_iter().filter(|kind| kind.has_kernel_path());
        let kinds: Vec<_> = kinds.collect();
        let names: Vec<_> = kinds.iter().map(|kind| kind.text().to_owned()).collect();
        self.part(&mut text, &names, |row| {
            let cells = kinds.iter().map(|kind| &row.cells[*kind as usize]);
            cells
                .map(|cell| cell.in_kernel.times(1e2).shown())
                .collect()
        });
        text
    }

    /// The costs as a picture; `None` if nothing was measured.
    pub fn svg(&self, machine: &str) -> Option<String> {
        let crowds = distinct(self.rows.iter().map(|row| row.case.crowd()));
        let panels = |way| {
            let panels = crowds.iter().map(|crowd| self.panel(way, crowd));
            panels.collect()
        };
        let plot = Plot {
            title: format!("Gateway's processor time for each packet; {machine}"),
            series: Kind::ALL.map(Kind::text).to_vec(),
            rows: Direction::ALL.map(panels).into(),
        };
        (!self.rows.is_empty()).then(|| plot.svg())
    }

    fn panel(&self, direction: Direction, crowd: &str) -> Panel {
        let rows = self.rows.iter();
        let rows = rows.filter(|row| row.case.direction == direction && row.case.crowd() == crowd);
        let rows: Vec<_> = rows.collect();
        let place = |row: &&Row| Place {
            label: row.case.traffic.label(),
            continues: matches!(row.case.traffic, Traffic::Udp(_)),
        };
        let points = |kind: Kind| {
            let cells = rows.iter().map(|row| &row.cells[kind as usize]);
            let points = cells.map(|cell| {
                let median = cell.cost_ns.median()?;
                let (least, most) = cell.cost_ns.extremes()?;
                Some(Point {
                    median,
                    least,
                    most,
                })
            });
            points.collect()
        };
        Panel {
            title: format!("{}, {crowd}", direction.text()),
            places: rows.iter().map(place).collect(),
            points: Kind::ALL.map(points).into(),
        }
    }

    fn part(&self, text: &mut String, titles: &[String], cells: impl Fn(&Row) -> Vec<String>) {
        let _ = writeln!(text, "| | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(titles.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} | {} |", row.case, cells(row).join(" | "));
        }
    }
}

impl Row {
    fn shown(&self, scale: f64, samples: impl Fn(&Cell) -> &Samples) -> Vec<String> {
        let cells = self.cells.iter();
        cells
            .map(|cell| samples(cell).times(scale).shown())
            .collect()
    }

    fn ratio(&self, ours: Kind, other: Kind) -> String {
        let median = |kind: Kind| self.cells[kind as usize].cost_ns.median();
        match (median(ours), median(other)) {
            (Some(ours), Some(other)) => digits(ours / other),
            _ => "–".to_owned(),
        }
    }
}

fn distinct(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut found = Vec::new();
    for word in words {
        if !found.contains(&word) {
            found.push(word);
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Kind, Table};
    use crate::records::sample::Sample;
    use crate::records::{Case, Direction, Traffic};

    const CASE: Case = Case {
        direction: Direction::Up,
        sessions: 64,
        flows: 1,
        traffic: Traffic::Imix,
    };

    #[test]
    fn ratios_are_those_of_medians() {
        let mut table = Table::default();
        assert_eq!(table.markdown(), "");
        assert_eq!(table.svg("x"), None);
        let costs = [
            (Kind::Plain, 2),
            (Kind::Reference, 20),
            (Kind::OursKernel, 5),
        ];
        for (kind, microseconds) in costs {
            let sample = Sample {
                delivered: 1000,
                wall: Duration::from_millis(10),
                processor: Duration::from_millis(microseconds),
                in_kernel: kind.has_kernel_path().then_some(0.5),
                ..Sample::default()
            };
            table.add(CASE, kind, &sample);
        }
        assert_eq!(table.cost(CASE, Kind::OursKernel), Some(5000.0));
        assert_eq!(table.cost(CASE, Kind::OursDirect), None);
        let text = table.markdown();
        let rows: Vec<_> = text.lines().filter(|line| line.contains("IMIX")).collect();
        assert_eq!(
            rows,
            [
                "| up, 64 sessions, IMIX | 2000 | 20000 | – | 5000 | – | – |",
                "| up, 64 sessions, IMIX | – | 0.25 | – | – | – | 2.50 | – | – |",
                "| up, 64 sessions, IMIX | 100 | 100 | – | 100 | – | – |",
                "| up, 64 sessions, IMIX | 50.0 | – | – |",
            ]
        );
        let picture = table.svg("a machine").unwrap();
        assert!(picture.contains("up, 64 sessions") && picture.contains(">IMIX<"));
        for kind in Kind::ALL {
            assert!(picture.contains(&format!("<title>{}</title>", kind.text())));
        }
    }
}
