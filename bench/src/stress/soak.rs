//! Ours under full load for long, while sessions leave and others come: what it holds must not grow.
//!
//! The load is that of the figure `records`: bursts in a closed loop, which change their kind twice a
//! second. Making a burst takes the load a few milliseconds in which the gateway has less to do.

use std::fmt::Write as _;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::Options;
use super::series::{Line, five, grows, second_half};
use super::turnover::Turnover;
use super::watch::Held;
use crate::client::tls_settings;
use crate::records::contender::{Contender, Kind};
use crate::records::generator::{Burst, Generator, Moved};
use crate::records::path::{Path, Sockets};
use crate::records::sample::Subject;
use crate::records::session::Session;
use crate::records::{Case, Direction, Traffic, raise_file_limit};
use crate::report::{Report, digits};
use crate::side::{client_cpus, on_cpus};

const SESSIONS: usize = 64;
/// Datagrams of a burst.
const BURST: usize = 2048;
/// How long a kind of load lasts.
const PHASE: Duration = Duration::from_millis(500);
/// How often what is held is read, and each session is tried.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often a session leaves and another comes.
const TURNOVER: Duration = Duration::from_secs(1);
/// Seconds that a cookie outlives its connection; the server adds 15.
const COOKIE_SECONDS: &str = "10";
/// Until all buffers have been used and the first cookies have expired.
const WARM_UP: Duration = Duration::from_secs(60);
/// Packets by which a session is tried, and how often before it counts as gone.
const PROBE: usize = 8;
const PROBES: usize = 3;
/// Kinds of load, which take turns.
const KINDS: [(Direction, Spread, usize); 6] = [
    (Direction::Up, Spread::One, 1400),
    (Direction::Down, Spread::All, 64),
    (Direction::Up, Spread::All, 512),
    (Direction::Down, Spread::One, 1400),
    (Direction::Up, Spread::All, 64),
    (Direction::Down, Spread::All, 512),
];

/// Who has the packets of a kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// One session, each time another.
    One,
    /// All, in turns packet by packet.
    All,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Soak {
    sessions: usize,
    /// Sessions that left while others came.
    turned_over: usize,
    delivered: usize,
    lost: usize,
    readings: Vec<Reading>,
    /// What went wrong meanwhile.
    fault: Option<String>,
}

/// One reading.
#[derive(Debug, Serialize)]
struct Reading {
    /// Seconds since the end of the warm-up.
    at: f64,
    held: Held,
    packets_per_second: f64,
    /// Share of the packets since the last reading.
    lost: f64,
}

/// Puts ours under load and watches it. What goes wrong under load is part of the result.
///
/// # Errors
/// When the server does not start or a first session does not come up.
pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let mut contender = Contender::start_with(Kind::OursKernel, |config| {
        config.set("cookie-timeout", COOKIE_SECONDS)
    })?;
    raise_file_limit()?;
    contender.log_in(SESSIONS)?;
    let sessions = contender.take_sessions();
    let span = Duration::from_secs_f64(options.minutes * 60.0);
    report.stress.soak = Some(Soak {
        sessions: SESSIONS,
        ..Soak::default()
    });
    let outcome = on_cpus(&client_cpus()?, || run(&contender, sessions, span, report))?;
    if let Err(error) = outcome {
        eprintln!("{}", contender.bed().logs());
        let soak = report.stress.soak.get_or_insert_default();
        soak.fault = Some(format!("{error:#}"));
    }
    contender.close()
}

fn run(
    contender: &Contender,
    sessions: Vec<Session>,
    span: Duration,
    report: &mut Report,
) -> Result<()> {
    let settings = tls_settings()?;
    let warm_up = WARM_UP.min(span / 3);
    thread::scope(|scope| {
        let mut load = Load {
            contender,
            sessions,
            turnover: Turnover::begin(scope, contender.bed().client(0), settings, TURNOVER),
            turned_over: 0,
            phase: 0,
            generator: Generator::new(),
            burst: Burst::default(),
        };
        report.progress(&format!("soak: warm-up, {:.0} s", warm_up.as_secs_f64()));
        load.run(warm_up)?;
        load.turned_over = 0;
        let begin = Instant::now();
        while begin.elapsed() < span {
            let started = Instant::now();
            let moved = load.run(INTERVAL)?;
            let taken = started.elapsed().as_secs_f64();
            load.probe()?;
            let server = contender.server().context("no server")?;
            let reading = Reading {
                at: begin.elapsed().as_secs_f64(),
                held: Held::by(server.pid())?,
                packets_per_second: moved.delivered as f64 / taken,
                lost: moved.lost as f64 / (moved.delivered + moved.lost) as f64,
            };
            report.progress(&reading.shown(load.turned_over));
            let soak = report.stress.soak.get_or_insert_default();
            soak.add(reading, moved, load.turned_over);
        }
        Ok(())
    })
}

struct Load<'a> {
    contender: &'a Contender,
    sessions: Vec<Session>,
    turnover: Turnover,
    turned_over: usize,
    phase: usize,
    generator: Generator,
    burst: Burst,
}

impl Load<'_> {
    /// Full load for so long.
    fn run(&mut self, span: Duration) -> Result<Moved> {
        let begin = Instant::now();
        let mut all = Moved::default();
        while begin.elapsed() < span {
            self.turn_over()?;
            let (direction, spread, size) = KINDS[self.phase % KINDS.len()];
            let chosen = match spread {
                Spread::All => 0..self.sessions.len(),
                Spread::One => {
                    let at = self.phase % self.sessions.len();
                    at..at + 1
                }
            };
            let case = Case {
                direction,
                sessions: chosen.len(),
                flows: 1,
                traffic: Traffic::Udp(size),
            };
            let moved = self
                .phase(case, chosen.clone())
                .with_context(|| format!("{case}, sessions {chosen:?}"))?;
            all.delivered += moved.delivered;
            all.lost += moved.lost;
            self.phase += 1;
        }
        Ok(all)
    }

    /// One kind of load on some sessions.
    fn phase(&mut self, case: Case, chosen: std::ops::Range<usize>) -> Result<Moved> {
        let subject = Subject {
            sessions: &self.sessions[chosen],
            ..self.contender.subject()?
        };
        let sockets = Sockets::open(&subject, &case)?;
        let mut path = Path::new(case, &subject, &sockets)?;
        let begin = Instant::now();
        let mut all = Moved::default();
        while begin.elapsed() < PHASE {
            for session in &self.sessions {
                session.keep_alive()?;
            }
            path.fill(&mut self.burst, BURST)?;
            let moved = self
                .generator
                .run(&self.burst, &path.out, &mut path.sinks)?;
            path.check()?;
            all.delivered += moved.delivered;
            all.lost += moved.lost;
        }
        Ok(all)
    }

    /// Puts a session that has come into the place of another, which leaves: every second one says so,
    /// the others just close their connection.
    fn turn_over(&mut self) -> Result<()> {
        let Some(new) = self.turnover.take()? else {
            return Ok(());
        };
        let place = self.turned_over % self.sessions.len();
        let old = std::mem::replace(&mut self.sessions[place], new);
        self.turned_over += 1;
        if self.turned_over.is_multiple_of(2) {
            old.sign_off()?;
        }
        Ok(())
    }

    /// Tries each session in both directions.
    fn probe(&mut self) -> Result<()> {
        for direction in [Direction::Up, Direction::Down] {
            let case = Case {
                direction,
                sessions: 1,
                flows: 1,
                traffic: Traffic::Udp(64),
            };
            let all = Subject {
                sessions: &self.sessions,
                ..self.contender.subject()?
            };
            let sockets = Sockets::open(&all, &case)?;
            for (place, session) in self.sessions.iter().enumerate() {
                let sessions = slice::from_ref(session);
                let mut path = Path::new(case, &Subject { sessions, ..all }, &sockets)?;
                let mut arrives = false;
                for _ in 0..PROBES {
                    path.fill(&mut self.burst, PROBE)?;
                    let moved = self
                        .generator
                        .run(&self.burst, &path.out, &mut path.sinks)?;
                    arrives |= moved.delivered > 0;
                    if arrives {
                        path.check()?;
                        break;
                    }
                }
                ensure!(
                    arrives,
                    "session {place} ({}) stopped working, {}",
                    session.address,
                    direction.text()
                );
            }
        }
        Ok(())
    }
}

impl Reading {
    fn shown(&self, turned_over: usize) -> String {
        const KIB: f64 = 1024.0;
        format!(
            "soak: {:.0} s, {:.0} KiB (PSS), {:.0} KiB of maps, {} descriptors, {:.0} packets/s, \
             {:.3} % lost, {turned_over} sessions turned over",
            self.at,
            self.held.memory as f64 / KIB,
            self.held.maps as f64 / KIB,
            self.held.descriptors(),
            self.packets_per_second,
            self.lost * 1e2,
        )
    }
}

impl Soak {
    fn add(&mut self, reading: Reading, moved: Moved, turned_over: usize) {
        self.readings.push(reading);
        self.delivered += moved.delivered;
        self.lost += moved.lost;
        self.turned_over = turned_over;
    }

    fn line(&self, value: impl Fn(&Reading) -> f64) -> Option<Line> {
        let points: Vec<_> = second_half(&self.readings)
            .iter()
            .map(|reading| (reading.at, value(reading)))
            .collect();
        Line::through(&points)
    }

    /// Processes that hold more descriptors all the time. One that was replaced has no history.
    fn growing(&self) -> Vec<String> {
        let Some(last) = self.readings.last() else {
            return Vec::new();
        };
        let counts = |pid| {
            let found = self.readings.iter().filter_map(move |reading| {
                let own = |process: &&super::watch::Process| process.pid == pid;
                Some(reading.held.processes.iter().find(own)?.descriptors)
            });
            found.collect::<Vec<_>>()
        };
        let processes = last.held.processes.iter();
        let growing = processes.filter(|process| grows(&counts(process.pid)));
        growing.map(|process| process.name.clone()).collect()
    }

    /// What must not be.
    pub fn faults(&self) -> Vec<String> {
        let growing = self.growing().into_iter();
        let growing = growing.map(|name| format!("soak: descriptors of {name} grow"));
        let fault = self.fault.iter().map(|fault| format!("soak: {fault}"));
        let maps = self.line(|reading| reading.held.maps as f64);
        let maps = maps.filter(|line| !line.is_flat_for_maps());
        let maps = maps.map(|_| "soak: maps of the kernel path fill up".to_owned());
        fault.chain(growing).chain(maps).collect()
    }

    /// Start, quarter points, end, and what they mean.
    pub fn markdown(&self) -> String {
        const KIB: f64 = 1024.0;
        const HOUR: f64 = 3600.0;
        let mut text = format!(
            "\nUnder load for {:.1} minutes after the warm-up, ours, xdp = auto; {} sessions, {} turned \
             over; {:.3e} packets delivered, {} lost:\n\n\
             | | start | 1/4 | 1/2 | 3/4 | end | an hour, by the second half |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
            self.readings.last().map_or(0.0, |last| last.at / 60.0),
            self.sessions,
            self.turned_over,
            self.delivered as f64,
            self.lost,
        );
        type Value = fn(&Reading) -> f64;
        let rows: [(&str, Value); 6] = [
            ("memory (PSS), KiB", |reading| {
                reading.held.memory as f64 / KIB
            }),
            ("of it anonymous, KiB", |reading| {
                reading.held.anonymous as f64 / KIB
            }),
            ("maps, KiB", |reading| reading.held.maps as f64 / KIB),
            ("descriptors", |reading| reading.held.descriptors() as f64),
            ("thousand packets a second", |reading| {
                reading.packets_per_second / 1e3
            }),
            ("lost, %", |reading| reading.lost * 1e2),
        ];
        for (name, value) in rows {
            let points = five(&self.readings).map(|points| points.map(|at| digits(value(at))));
            let slope = self.line(value).map(|line| digits(line.slope * HOUR));
            let _ = writeln!(
                text,
                "| {name} | {} | {} |",
                points.map_or_else(
                    || "– | – | – | – | –".to_owned(),
                    |points| points.join(" | ")
                ),
                slope.unwrap_or_else(|| "–".to_owned())
            );
        }
        let word = |value: fn(&Reading) -> f64| match self.line(value).map(|line| line.is_flat()) {
            Some(true) => "flat",
            Some(false) => "GROWS",
            None => "too short to tell",
        };
        let _ = writeln!(
            text,
            "\nMemory: {}; its anonymous part: {}.",
            word(|reading| reading.held.memory as f64),
            word(|reading| reading.held.anonymous as f64)
        );
        for fault in self.faults() {
            let _ = writeln!(text, "FAULT: {fault}.");
        }
        text
    }
}
