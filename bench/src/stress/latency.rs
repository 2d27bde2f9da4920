//! Small packets beside bulk in one session: how long they take through the gateway.
//!
//! Sender and receiver are one thread, so one clock measures the delay from before a packet is sealed (up)
//! or sent (down) until its datagram is taken out of the socket at the other end. The load's own
//! processor, which all contenders share alike, is in it: its devices' threads and the bulk's work.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::streams::{Lan, Outcome, Pace, Plan, Streams};
use super::tally::{Tally, percentile};
use crate::Scale;
use crate::records::contender::{Contender, Kind};
use crate::records::cores;
use crate::records::{Direction, raise_file_limit};
use crate::report::{Report, Samples, digits};
use crate::side::{SideName, client_cpus, on_cpus};

/// Programs that are compared.
const KINDS: [Kind; 3] = [Kind::Reference, Kind::OursUser, Kind::OursKernel];
const BULK: usize = 1400;
/// Bulk packets under way: more than a gateway takes at once, so that those which it has not got to
/// wait in its queues, and less than overflows these. Up that is ocserv's socket of a session, whose
/// buffer (212 KB, a datagram counting as 2.3 KB) holds 92; down its tun device with 500, and before it
/// the gateway's veth with 256.
const WINDOW_UP: u64 = 80;
const WINDOW_DOWN: u64 = 240;
/// With the window, the load's own work is in the delays of a gateway that is faster than the load: what is
/// under way then waits there. So bulk also comes at a rate that all gateways carry, 100,000 a second.
const BULK_INTERVAL: Duration = Duration::from_micros(10);
const SMALL: usize = 64;
const INTERVAL: Duration = Duration::from_millis(1);
/// What devices gather packets for, as a network card with little to do.
const PAUSE: Duration = Duration::from_micros(20);
/// Before it counts.
const WARM_UP: Duration = Duration::from_millis(200);

/// How bulk comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Load {
    /// As fast as it arrives.
    Window,
    /// At the same rate through all gateways.
    Rate,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Latency {
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    load: Load,
    direction: Direction,
    kind: Kind,
    /// Of the small packets, milliseconds.
    median: Samples,
    p99: Samples,
    worst: Samples,
    small: Counts,
    /// Bulk packets a second.
    bulk_rate: Samples,
    bulk: Counts,
}

/// Of all rounds.
#[derive(Debug, Default, Serialize)]
struct Counts {
    sent: u64,
    lost: u64,
    reordered: u64,
}

/// Measures all programs, in turns.
///
/// # Errors
/// When a program does not start, or a packet is damaged.
pub fn measure(only: Option<SideName>, scale: Scale, report: &mut Report) -> Result<()> {
    let wanted = KINDS.into_iter();
    let wanted = wanted.filter(|kind| only.is_none_or(|only| kind.side() == only));
    let mut contenders = wanted
        .map(|kind| Contender::start(kind, None).context(kind.text()))
        .collect::<Result<Vec<_>>>()?;
    raise_file_limit()?;
    let outcome = measure_all(&mut contenders, scale, report);
    if outcome.is_err() {
        contenders
            .iter()
            .for_each(|contender| eprintln!("{}", contender.bed().logs()));
    }
    contenders.into_iter().try_for_each(Contender::close)?;
    outcome
}

fn measure_all(contenders: &mut [Contender], scale: Scale, report: &mut Report) -> Result<()> {
    for contender in &mut *contenders {
        cores::pause(contender.bed(), PAUSE)?;
        contender
            .log_in(1)
            .with_context(|| contender.kind().text())?;
    }
    let cpus = client_cpus()?;
    for load in [Load::Window, Load::Rate] {
        for direction in [Direction::Up, Direction::Down] {
            for round in 1..=scale.rounds {
                for contender in &*contenders {
                    let kind = contender.kind();
                    let name = format!("{}, {}, {}", load.text(), direction.text(), kind.text());
                    let take = || sample(contender, load, direction, scale.transfer);
                    let outcome = on_cpus(&cpus, take)?.with_context(|| name.clone())?;
                    let latency = report.stress.latency.get_or_insert_default();
                    let line = latency.row(load, direction, kind).add(&outcome)?;
                    report.progress(&format!("latency, {name}, round {round}: {line}"));
                }
            }
        }
    }
    Ok(())
}

impl Load {
    const fn text(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Rate => "rate",
        }
    }

    fn pace(self, direction: Direction) -> Pace {
        match self {
            Self::Window => Pace::Window(window(direction)),
            Self::Rate => Pace::Every(BULK_INTERVAL),
        }
    }

    /// What it is, for a heading.
    fn heading(self) -> String {
        match self {
            Self::Window => format!("{WINDOW_UP} packets under way up, {WINDOW_DOWN} down"),
            Self::Rate => format!(
                "{} packets/s",
                Duration::from_secs(1).as_nanos() / BULK_INTERVAL.as_nanos()
            ),
        }
    }
}

fn sample(
    contender: &Contender,
    load: Load,
    direction: Direction,
    span: Duration,
) -> Result<Outcome> {
    let plan = |size, pace| Plan {
        session: 0,
        direction,
        size,
        pace,
    };
    let plans = [
        plan(BULK, load.pace(direction)),
        plan(SMALL, Pace::Every(INTERVAL)),
    ];
    let lan = Lan::open(contender, plans.len())?;
    let mut streams = Streams::new(&plans, window(direction), contender.sessions(), &lan)?;
    streams.run(WARM_UP)?;
    streams.run(span)
}

const fn window(direction: Direction) -> u64 {
    match direction {
        Direction::Up => WINDOW_UP,
        Direction::Down => WINDOW_DOWN,
    }
}

impl Latency {
    fn row(&mut self, load: Load, direction: Direction, kind: Kind) -> &mut Row {
        let is_it = |row: &Row| (row.load, row.direction, row.kind) == (load, direction, kind);
        let at = self.rows.iter().position(is_it).unwrap_or_else(|| {
            self.rows.push(Row::new(load, direction, kind));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// The 99th percentile of the small packets' delay as a multiple of the reference's. `None`: one of them was
    /// not measured.
    pub fn ratio(&self, load: Load, direction: Direction, kind: Kind) -> Option<f64> {
        let p99 = |kind| {
            let is_it = |row: &&Row| (row.load, row.direction, row.kind) == (load, direction, kind);
            self.rows.iter().find(is_it)?.p99.median()
        };
        Some(p99(kind)? / p99(Kind::Reference)?)
    }

    /// Delays, and what became of the packets.
    pub fn markdown(&self) -> String {
        let texts = [Load::Window, Load::Rate].map(|load| self.table(load));
        texts.concat()
    }

    fn table(&self, load: Load) -> String {
        let mut text = format!(
            "\nSmall packets ({SMALL} B, one each {} ms) beside bulk ({BULK} B, {}) in the same session; \
             ms from one end to the other:\n\n\
             | | p50 | p99 | p99 / ocserv | worst | small: lost, reordered | bulk: packets/s | \
             bulk: lost, reordered |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
            INTERVAL.as_millis(),
            load.heading()
        );
        for row in self.rows.iter().filter(|row| row.load == load) {
            let ratio = self.ratio(load, row.direction, row.kind).map(digits);
            let _ = writeln!(
                text,
                "| {}, {} | {} | {} | {} | {} | {} | {} | {} |",
                row.direction.text(),
                row.kind.text(),
                row.median.shown(),
                row.p99.shown(),
                ratio.unwrap_or_else(|| "–".to_owned()),
                row.worst.shown(),
                row.small.shown(),
                row.bulk_rate.shown(),
                row.bulk.shown(),
            );
        }
        text
    }
}

impl Row {
    fn new(load: Load, direction: Direction, kind: Kind) -> Self {
        Self {
            load,
            direction,
            kind,
            median: Samples::default(),
            p99: Samples::default(),
            worst: Samples::default(),
            small: Counts::default(),
            bulk_rate: Samples::default(),
            bulk: Counts::default(),
        }
    }

    /// Adds a round, and says what it was.
    fn add(&mut self, outcome: &Outcome) -> Result<String> {
        const MS: f64 = 1e-6;
        let [bulk, small] = &outcome.tallies[..] else {
            anyhow::bail!("not two streams");
        };
        let delays = small.sorted_delays();
        ensure!(!delays.is_empty(), "no small packet arrived");
        let at = |share| percentile(&delays, share).map_or(f64::NAN, |ns| ns as f64 * MS);
        let (median, p99, worst) = (at(0.5), at(0.99), at(1.0));
        let rate = outcome.rate(|place| place == 0);
        self.median.push(median);
        self.p99.push(p99);
        self.worst.push(worst);
        self.bulk_rate.push(rate);
        self.small.add(small);
        self.bulk.add(bulk);
        Ok(format!(
            "{median:.3} ms p50, {p99:.3} ms p99, {worst:.3} ms worst; small {} lost, {} reordered; \
             bulk {rate:.0} packets/s, {} lost, {} reordered",
            small.lost(),
            small.reordered,
            bulk.lost(),
            bulk.reordered
        ))
    }
}

impl Counts {
    fn add(&mut self, tally: &Tally) {
        self.sent += tally.sent;
        self.lost += tally.lost();
        self.reordered += tally.reordered;
    }

    fn shown(&self) -> String {
        format!("{} of {}, {}", self.lost, self.sent, self.reordered)
    }
}
