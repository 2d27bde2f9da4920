//! The result with client programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::Peer;
use crate::records::Case;
use crate::records::sample::Sample;
use crate::report::Samples;

/// All samples of all cases.
#[derive(Debug, Default, Serialize)]
pub struct PeerTable {
    not_installed: Vec<Peer>,
    versions: Vec<String>,
    cells: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    case: Case,
    peer: Peer,
    /// Nanoseconds of the gateway's processor for each packet.
    cost_ns: Samples,
    packets_per_second: Samples,
    /// Shares.
    lost: Samples,
}

impl PeerTable {
    /// Remembers which ones could not be measured.
    pub fn note_missing(&mut self, missing: &[Peer]) {
        self.not_installed = missing.to_vec();
    }

    /// Remembers what a program says of itself.
    pub fn note_version(&mut self, version: String) {
        self.versions.push(version);
    }

    /// Adds a sample.
    pub fn add(&mut self, case: Case, peer: Peer, sample: &Sample) {
        let is_it = |cell: &Cell| cell.case == case && cell.peer == peer;
        let at = self.cells.iter().position(is_it).unwrap_or_else(|| {
            self.cells.push(Cell {
                case,
                peer,
                cost_ns: Samples::default(),
                packets_per_second: Samples::default(),
                lost: Samples::default(),
            });
            self.cells.len() - 1
        });
        let cell = &mut self.cells[at];
        cell.cost_ns.push(sample.cost());
        cell.packets_per_second.push(sample.rate());
        cell.lost.push(sample.loss());
    }

    /// Costs and rates of those that were measured; nothing if none was.
    pub fn markdown(&self) -> String {
        if self.cells.is_empty() {
            return String::new();
        }
        let mut text = "\n".to_owned();
        for version in &self.versions {
            let _ = writeln!(text, "- {version}");
        }
        text += "\nWith client programs, one session; gateway's processor time, ns a packet:\n\n";
        self.part(&mut text, |cell| cell.cost_ns.shown());
        text += "\nThousand packets a second, of which the client program is the limit:\n\n";
        self.part(&mut text, |cell| {
            cell.packets_per_second.times(1e-3).shown()
        });
        if !self.not_installed.is_empty() {
            let names: Vec<_> = self.not_installed.iter().map(|peer| peer.text()).collect();
            let _ = writeln!(text, "\nnot installed: {}", names.join(", "));
        }
        text
    }

    fn part(&self, text: &mut String, shown: impl Fn(&Cell) -> String) {
        let is_there = |peer: &Peer| self.cells.iter().any(|cell| cell.peer == *peer);
        let peers: Vec<_> = Peer::ALL.into_iter().filter(is_there).collect();
        let titles: Vec<_> = peers.iter().map(|peer| peer.text()).collect();
        let _ = writeln!(text, "| | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(peers.len()));
        let mut cases: Vec<Case> = self.cells.iter().map(|cell| cell.case).collect();
        cases.dedup();
        for case in cases {
            let find = |peer: &Peer| {
                let mut cells = self.cells.iter();
                let cell = cells.find(|cell| cell.case == case && cell.peer == *peer);
                cell.map_or_else(|| "–".to_owned(), &shown)
            };
            let row: Vec<_> = peers.iter().map(find).collect();
            let _ = writeln!(
                text,
                "| {}, {} B | {} |",
                case.direction.text(),
                case.traffic.label(),
                row.join(" | ")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Peer, PeerTable};
    use crate::records::sample::Sample;
    use crate::records::{Case, Direction, Traffic};

    #[test]
    fn columns_are_those_that_were_measured() {
        let case = Case {
            direction: Direction::Down,
            sessions: 1,
            flows: 1,
            traffic: Traffic::Udp(1400),
        };
        let mut table = PeerTable::default();
        table.note_missing(&[Peer::Boringtun]);
        assert_eq!(table.markdown(), "");
        for peer in [Peer::Reference, Peer::OpenVpn] {
            let sample = Sample {
                delivered: 1000,
                wall: Duration::from_millis(100),
                processor: Duration::from_millis(12),
                ..Sample::default()
            };
            table.add(case, peer, &sample);
        }
        let text = table.markdown();
        assert!(text.contains("| | ocserv 1.1.6, openconnect | OpenVPN |\n"));
        assert!(text.contains("| down, 1400 B | 12000 | 12000 |\n"));
        assert!(text.contains("| down, 1400 B | 10.0 | 10.0 |\n"));
        assert!(text.ends_with("\nnot installed: boringtun\n"));
    }
}
