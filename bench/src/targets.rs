//! The project's aims, each with what a run has measured for it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::records::{Case, Direction, Kind, Traffic};
use crate::report::{Better, Report, digits};
use crate::side::Certificate;
use crate::stress::latency::Load;
use crate::{logins, memory};

/// What a session has at most of the reference's processor time, and of plain forwarding's.
struct Packets {
    sessions: usize,
    traffic: Traffic,
    direction: Direction,
    of_reference: f64,
    of_plain: Option<f64>,
}

/// Processor time of packets.
const PACKETS: [Packets; 10] = [
    packets(1, 1400, Direction::Up, 0.16, Some(1.3)),
    packets(1, 1400, Direction::Down, 0.20, Some(1.6)),
    packets(1, 64, Direction::Up, 0.16, Some(1.3)),
    packets(1, 64, Direction::Down, 0.20, Some(1.6)),
    packets(64, 512, Direction::Up, 0.15, None),
    packets(64, 512, Direction::Down, 0.15, None),
    packets(256, 512, Direction::Up, 0.10, None),
    packets(256, 512, Direction::Down, 0.10, None),
    mixed(Direction::Up),
    mixed(Direction::Down),
];
/// Clients at once, and how many times the reference's logins a second there shall be.
const CROWD: usize = 32;
const LOGINS: f64 = 2.0;
/// Idle sessions, and what one shall have of the reference's memory.
const SESSIONS: [usize; 2] = [100, 200];
const MEMORY: f64 = 0.12;
/// Delay of small packets beside bulk, 99th percentile.
const DELAY: f64 = 0.3;

const fn packets(
    sessions: usize,
    size: usize,
    direction: Direction,
    of_reference: f64,
    of_plain: Option<f64>,
) -> Packets {
    Packets {
        sessions,
        traffic: Traffic::Udp(size),
        direction,
        of_reference,
        of_plain,
    }
}

const fn mixed(direction: Direction) -> Packets {
    Packets {
        sessions: 64,
        traffic: Traffic::Imix,
        direction,
        of_reference: 0.15,
        of_plain: None,
    }
}

/// An aim and what was measured.
#[derive(Debug, Serialize)]
pub struct Verdict {
    name: String,
    better: Better,
    limit: f64,
    /// With the default, `xdp = auto`.
    auto: Option<f64>,
    /// With `xdp-forward = direct`, where that makes a difference.
    direct: Option<f64>,
    /// The same with `xdp-sockets = true`.
    sockets: Option<f64>,
}

/// Compares a run with the aims. One that was not measured has no ratio.
pub fn judge(report: &Report) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for aim in &PACKETS {
        let case = Case {
            direction: aim.direction,
            sessions: aim.sessions,
            flows: 1,
            traffic: aim.traffic,
        };
        let of_reference = Some((Kind::Reference, aim.of_reference));
        let of_plain = aim.of_plain.map(|limit| (Kind::Plain, limit));
        for (other, limit) in of_reference.into_iter().chain(of_plain) {
            let ratio = |ours| {
                let cost = |kind| report.records.cost(case, kind);
                Some(cost(ours)? / cost(other)?)
            };
            verdicts.push(Verdict {
                name: format!("CPU a packet, {case}, of {}", other.text()),
                better: Better::Lower,
                limit,
                auto: ratio(Kind::OursKernel),
                direct: ratio(Kind::OursDirect),
                sockets: ratio(Kind::OursSockets),
            });
        }
    }
    let mut add = |name: String, better, limit| {
        verdicts.push(Verdict {
            auto: report.ratio(&name),
            name,
            better,
            limit,
            direct: None,
            sockets: None,
        });
    };
    for certificate in Certificate::ALL {
        add(
            logins::name_of_rate(certificate, CROWD),
            Better::Higher,
            LOGINS,
        );
    }
    for count in SESSIONS {
        add(memory::name_of_share(count), Better::Lower, MEMORY);
    }
    for direction in [Direction::Up, Direction::Down] {
        let latency = report.stress.latency.as_ref();
        verdicts.push(Verdict {
            name: format!(
                "delay of small packets beside bulk, p99, {}",
                direction.text()
            ),
            better: Better::Lower,
            limit: DELAY,
            auto: latency.and_then(|l| l.ratio(Load::Window, direction, Kind::OursKernel)),
            direct: None,
            sockets: None,
        });
    }
    verdicts
}

/// The table; nothing if nothing of it was measured.
pub fn markdown(verdicts: &[Verdict]) -> String {
    let is_measured = |verdict: &Verdict| {
        verdict
            .auto
            .or(verdict.direct)
            .or(verdict.sockets)
            .is_some()
    };
    if !verdicts.iter().any(is_measured) {
        return String::new();
    }
    let mut text =
        "\nTargets, as multiples of ocserv 1.1.6 unless it says otherwise:\n\n".to_owned();
    text += "| | target | xdp = auto | | xdp-forward = direct | | xdp-sockets = true | |\n\
             |---|---:|---:|---|---:|---|---:|---|\n";
    for verdict in verdicts {
        let _ = writeln!(
            text,
            "| {} | {} {} | {} | {} | {} |",
            verdict.name,
            verdict.sign(),
            digits(verdict.limit),
            verdict.shown(verdict.auto),
            verdict.shown(verdict.direct),
            verdict.shown(verdict.sockets)
        );
    }
    text
}

impl Verdict {
    fn sign(&self) -> char {
        match self.better {
            Better::Higher => '≥',
            Better::Lower => '≤',
        }
    }

    fn shown(&self, ratio: Option<f64>) -> String {
        let Some(ratio) = ratio else {
            return "– | ".to_owned();
        };
        let is_met = match self.better {
            Better::Higher => ratio >= self.limit,
            Better::Lower => ratio <= self.limit,
        };
        let word = if is_met { "met" } else { "MISSED" };
        // Near the limit two digits would look as if it was met.
        format!("{ratio:.3} | {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::{SESSIONS, judge, markdown};
    use crate::report::{Better, Report};
    use crate::side::{Certificate, SideName};
    use crate::{Scale, logins, memory};

    #[test]
    fn limits_hold_in_their_direction() {
        let mut report = Report::begin(Scale::QUICK);
        assert_eq!(markdown(&judge(&report)), "");
        let rsa = logins::name_of_rate(Certificate::Rsa, 32);
        let p256 = logins::name_of_rate(Certificate::P256, 32);
        let [few, many] = SESSIONS.map(memory::name_of_share);
        let ratios = [(&rsa, 2.0), (&p256, 1.99), (&few, 0.12), (&many, 0.121)];
        for (name, ratio) in ratios {
            for (side, value) in [(SideName::Reference, 1.0), (SideName::Ours, ratio)] {
                report.add(name, "", Better::Lower, side, value);
            }
        }
        let text = markdown(&judge(&report));
        let row = |name: &str| {
            let line = text.lines().find(|line| line.contains(name)).unwrap();
            line.rsplit_once(name).unwrap().1.to_owned()
        };
        assert_eq!(row(&rsa), " | ≥ 2.00 | 2.000 | met | – |  | – |  |");
        assert_eq!(row(&p256), " | ≥ 2.00 | 1.990 | MISSED | – |  | – |  |");
        assert_eq!(row(&few), " | ≤ 0.12 | 0.120 | met | – |  | – |  |");
        assert_eq!(row(&many), " | ≤ 0.12 | 0.121 | MISSED | – |  | – |  |");
        let packets = row("CPU a packet, up, 1 session, 1 flow, 1400 B, of plain forwarding");
        assert_eq!(packets, " | ≤ 1.30 | – |  | – |  | – |  |");
    }
}
