//! One packet thread on one processor, and one for each processor of the machine.
//!
//! Ours starts a packet thread for each processor that it may use, with a socket and a tun queue of its
//! own; the kernel's hash of a flow picks between them. On a machine with two processors, the load takes
//! part of one: so two threads cannot be faster by as much as they would be with load from elsewhere, and
//! packets a second say little. What can be seen there: whether flows spread over the threads, what
//! a packet costs when two threads share tables and the tun device, and whether packets of a flow stay in
//! order. What cannot: whether the rate doubles, and what more than two threads do. The veth
//! devices have one queue each, so what is received by them, and all that the kernel path does with it, stays
//! one thread's work in either case.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::streams::{Lan, Outcome, Pace, Plan, Streams};
use super::tally::Tally;
use super::threads::Threads;
use crate::Scale;
use crate::cost;
use crate::records::contender::{Contender, Kind};
use crate::records::{Direction, raise_file_limit};
use crate::report::{Report, Samples};
use crate::side::{SideName, client_cpus, cpus, on_cpus, server_cpus};

const KINDS: [Kind; 2] = [Kind::OursUser, Kind::OursKernel];
const SESSIONS: usize = 64;
const SIZES: [usize; 2] = [64, 1400];
/// Packets under way, in a session and in all: less than a queue of veth holds.
const WINDOW: u64 = 4;
const ALL_UNDER_WAY: u64 = 128;
/// Before it counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// What packet threads are called.
const PACKET_THREAD: &str = "packets-";

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Cores {
    rows: Vec<Row>,
}

/// A gateway and its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Case {
    direction: Direction,
    size: usize,
    kind: Kind,
    processors: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    case: Case,
    /// Nanoseconds of all processors for each packet.
    cost_ns: Samples,
    packets_per_second: Samples,
    sent: u64,
    lost: u64,
    reordered: u64,
    /// Shares of the gateway's time that its packet threads had, the busiest first; and the threads of
    /// its devices together. Of the last round.
    packet_threads: Vec<f64>,
    device_threads: f64,
}

/// Measures all, in turns.
///
/// # Errors
/// When the program does not start, or a packet is damaged.
pub fn measure(only: Option<SideName>, scale: Scale, report: &mut Report) -> Result<()> {
    if only == Some(SideName::Reference) {
        return Ok(());
    }
    let mut contenders = Vec::new();
    for cpus in [server_cpus()?, cpus()?] {
        for kind in KINDS {
            let contender = Contender::start_on(kind, &cpus, |config| config);
            contenders.push((contender.context(kind.text())?, cpus.len()));
        }
    }
    raise_file_limit()?;
    let outcome = on_cpus(&client_cpus()?, || {
        measure_all(&mut contenders, scale, report)
    })?;
    if outcome.is_err() {
        contenders
            .iter()
            .for_each(|(contender, _)| eprintln!("{}", contender.bed().logs()));
    }
    contenders
        .into_iter()
        .try_for_each(|(contender, _)| contender.close())?;
    outcome
}

fn measure_all(
    contenders: &mut [(Contender, usize)],
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for (contender, _) in &mut *contenders {
        contender.log_in(SESSIONS)?;
    }
    for direction in [Direction::Up, Direction::Down] {
        for size in SIZES {
            for round in 1..=scale.rounds {
                for (contender, processors) in &*contenders {
                    let case = Case {
                        direction,
                        size,
                        kind: contender.kind(),
                        processors: *processors,
                    };
                    let sample = Sample::take(contender, case, 2 * scale.packets);
                    let sample = sample.with_context(|| case.to_string())?;
                    let cores = report.stress.cores.get_or_insert_default();
                    let line = cores.row(case).add(&sample);
                    report.progress(&format!("cores, {case}, round {round}: {line}"));
                }
            }
        }
    }
    Ok(())
}

struct Sample {
    outcome: Outcome,
    processor: Duration,
    packet_threads: Vec<f64>,
    device_threads: f64,
}

impl Sample {
    fn take(contender: &Contender, case: Case, span: Duration) -> Result<Self> {
        let plans: Vec<_> = (0..SESSIONS)
            .map(|session| Plan {
                session,
                direction: case.direction,
                size: case.size,
                pace: Pace::Window(WINDOW),
            })
            .collect();
        let lan = Lan::open(contender, plans.len())?;
        let mut streams = Streams::new(&plans, ALL_UNDER_WAY, contender.sessions(), &lan)?;
        let server = contender.server().context("no server")?.pid();
        let receivers = contender.receivers().iter().map(|pid| pid.as_raw());
        let processes: Vec<_> = cost::pids(server)?.into_iter().chain(receivers).collect();
        let meter = contender.meter()?;
        streams.run(WARM_UP)?;
        let threads = Threads::of(processes.iter().copied())?;
        let before = meter.read()?;
        let outcome = streams.run(span)?;
        let processor = meter.read()?.saturating_sub(before);
        let used = Threads::of(processes)?.since(&threads);
        let all: u64 = used.iter().map(|(_, time)| time).sum();
        let share = |time: u64| time as f64 / all as f64;
        let is_packet = |name: &str| name.starts_with(PACKET_THREAD);
        let packet_threads = used.iter().filter(|(name, _)| is_packet(name));
        let device_threads = used.iter().filter(|(name, _)| name.starts_with("napi/"));
        Ok(Self {
            outcome,
            processor,
            packet_threads: packet_threads.map(|(_, time)| share(*time)).collect(),
            device_threads: share(device_threads.map(|(_, time)| time).sum()),
        })
    }

    fn cost(&self) -> f64 {
        let arrived = self.outcome.sum(|tally| tally.arrived);
        self.processor.as_secs_f64() * 1e9 / arrived as f64
    }
}

impl Cores {
    fn row(&mut self, case: Case) -> &mut Row {
        let found = self.rows.iter().position(|row| row.case == case);
        let at = found.unwrap_or_else(|| {
            self.rows.push(Row::new(case));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Costs, rates, who did the work, and order.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "\nPacket threads on one processor and on all; {SESSIONS} sessions, the load always on the first \
             half of the processors:\n\n\
             | | ns a packet | thousand packets a second | packet threads, % of the gateway's time | \
             devices' threads, % | lost | reordered |\n\
             |---|---:|---:|---:|---:|---:|---:|\n"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.0} | {} of {} | {} |",
                row.case,
                row.cost_ns.shown(),
                row.packets_per_second.times(1e-3).shown(),
                percents(&row.packet_threads),
                row.device_threads * 1e2,
                row.lost,
                row.sent,
                row.reordered,
            );
        }
        text
    }
}

fn percents(shares: &[f64]) -> String {
    let shown = shares.iter().map(|share| format!("{:.0}", share * 1e2));
    shown.collect::<Vec<_>>().join(" + ")
}

impl Row {
    fn new(case: Case) -> Self {
        Self {
            case,
            cost_ns: Samples::default(),
            packets_per_second: Samples::default(),
            sent: 0,
            lost: 0,
            reordered: 0,
            packet_threads: Vec::new(),
            device_threads: 0.0,
        }
    }

    /// Adds a round, and says what it was.
    fn add(&mut self, sample: &Sample) -> String {
        let rate = sample.outcome.rate(|_| true);
        let lost = sample.outcome.sum(Tally::lost);
        let reordered = sample.outcome.sum(|tally| tally.reordered);
        self.cost_ns.push(sample.cost());
        self.packets_per_second.push(rate);
        self.sent += sample.outcome.sum(|tally| tally.sent);
        self.lost += lost;
        self.reordered += reordered;
        self.packet_threads.clone_from(&sample.packet_threads);
        self.device_threads = sample.device_threads;
        format!(
            "{:.0} ns CPU a packet, {rate:.0} packets/s, packet threads {} %, devices' threads {:.0} %, \
             {lost} lost, {reordered} reordered",
            sample.cost(),
            percents(&sample.packet_threads),
            sample.device_threads * 1e2
        )
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.processors == 1 { "" } else { "s" };
        write!(
            f,
            "{}, {} B, {}, {} processor{plural}",
            self.direction.text(),
            self.size,
            self.kind.text(),
            self.processors
        )
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn shares_of_threads_stand_side_by_side() {
        assert_eq!(super::percents(&[0.614, 0.3]), "61 + 30");
        assert_eq!(super::percents(&[]), "");
    }
}
