//! Processor time of the gateway for each packet: records that the load generator sealed itself, in
//! a closed loop, so that no client program is in the way.

mod case;
mod contender;
mod cores;
mod generator;
mod packet;
mod path;
mod plot;
mod session;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::case::Choice;
use self::contender::Contender;
use self::cores::Meter;
use self::generator::{Burst, Generator, Moved};
use self::path::{Path, Sockets};
use crate::Scale;
use crate::report::Report;
use crate::side::{SideName, client_cpus, on_cpus};

pub use self::case::{Case, Direction, Traffic};
pub use self::contender::Kind;
pub use self::table::Table;

/// Datagrams that are made ahead and then sent at once.
const BURST: usize = 4096;
/// A sample with more losses than this share is none.
const MOST_LOST: f64 = 0.05;

/// What of the figure is wanted.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    choice: Choice,
    /// `xdp-max-record` of ours with the kernel path, in the figure `records`; its default otherwise.
    #[arg(long)]
    max_record: Option<u32>,
    /// Where the picture of the figure `records` goes; beside the JSON result otherwise.
    #[arg(long)]
    pub svg: Option<PathBuf>,
}

/// What a sample consists of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    delivered: usize,
    lost: usize,
    wall: Duration,
    processor: Duration,
    /// Share of the packets that passed in the kernel, where that is known.
    pub in_kernel: Option<f64>,
}

impl Sample {
    fn add(&mut self, moved: Moved, processor: Duration) {
        self.delivered += moved.delivered;
        self.lost += moved.lost;
        self.wall += moved.wall;
        self.processor += processor;
    }

    /// Nanoseconds of the gateway's processor for each delivered packet.
    pub fn cost(&self) -> f64 {
        self.processor.as_secs_f64() * 1e9 / self.delivered as f64
    }

    /// Delivered packets a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.wall.as_secs_f64()
    }

    /// Share of the packets that got lost.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / (self.delivered + self.lost) as f64
    }
}

/// Measures all cases, the contenders in turns.
///
/// # Errors
/// When a contender does not start, a session not come up, or packets get lost.
pub fn measure(
    options: &Options,
    only: Option<SideName>,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let wanted = Kind::ALL.into_iter();
    let wanted = wanted.filter(|kind| only.is_none_or(|only| kind.side() == only));
    let mut contenders = wanted
        .map(|kind| Contender::start(kind, options.max_record).context(kind.text()))
        .collect::<Result<Vec<_>>>()?;
    raise_file_limit()?;
    let outcome = measure_all(&mut contenders, options, scale, report);
    if outcome.is_err() {
        contenders
            .iter()
            .for_each(|contender| eprintln!("{}", contender.bed().logs()));
    }
    contenders.into_iter().try_for_each(Contender::close)?;
    outcome
}

/// Each session has two sockets here. After the start of the servers, which shall not inherit it.
fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("limit of open files")
}

fn measure_all(
    contenders: &mut [Contender],
    options: &Options,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for sessions in options.choice.crowds(scale) {
        for contender in &mut *contenders {
            contender
                .log_in(sessions)
                .with_context(|| format!("{sessions} sessions, {}", contender.kind().text()))?;
            if let Some(cipher) = contender.cipher() {
                report.records.note_cipher(contender.kind(), cipher);
            }
        }
        for case in options.choice.cases(sessions, scale) {
            for round in 1..=scale.rounds {
                for contender in &*contenders {
                    run_round(contender, case, round, scale, report)
                        .with_context(|| format!("{case}, {}", contender.kind().text()))?;
                }
            }
        }
    }
    Ok(())
}

fn run_round(
    contender: &Contender,
    case: Case,
    round: usize,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let cpus = client_cpus()?;
    let before = contender.passed()?;
    let mut sample = on_cpus(&cpus, || take_sample(contender, case, scale.packets))??;
    sample.in_kernel = share(before, contender.passed()?);
    report.records.add(case, contender.kind(), &sample);
    let in_kernel = sample.in_kernel.map(|share| share * 1e2);
    report.progress(&format!(
        "{case}, round {round}, {}: {:.0} ns CPU a packet, {:.0} packets/s, {:.2} % lost{}",
        contender.kind().text(),
        sample.cost(),
        sample.rate(),
        sample.loss() * 1e2,
        in_kernel.map_or_else(String::new, |share| format!(", {share:.0} % in the kernel")),
    ));
    Ok(())
}

/// Of the packets between two readings, those that passed in the kernel.
fn share(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<f64> {
    let ((kernel_before, all_before), (kernel, all)) = (before?, after?);
    Some((kernel - kernel_before) as f64 / (all - all_before) as f64)
}

/// Sends bursts until their time adds up to `span`.
fn take_sample(contender: &Contender, case: Case, span: Duration) -> Result<Sample> {
    let sockets = Sockets::open(contender, &case)?;
    let mut path = Path::new(case, contender.sessions(), &sockets)?;
    let mut way = Way {
        meter: contender.meter()?,
        generator: Generator::new(),
        burst: Burst::default(),
    };
    // Neighbours are looked up, the ways of sessions settle.
    way.run(&mut path)?;
    let mut sample = Sample::default();
    while sample.wall < span {
        let (moved, processor) = way.run(&mut path)?;
        sample.add(moved, processor);
    }
    let strangers = path.sinks.strangers();
    ensure!(
        sample.loss() <= MOST_LOST,
        "{} of {} packets lost, {strangers} others arrived",
        sample.lost,
        sample.lost + sample.delivered
    );
    Ok(sample)
}

struct Way {
    meter: Meter,
    generator: Generator,
    burst: Burst,
}

impl Way {
    fn run(&mut self, path: &mut Path<'_>) -> Result<(Moved, Duration)> {
        path.keep_alive()?;
        path.fill(&mut self.burst, BURST)?;
        let before = self.meter.read()?;
        let moved = self
            .generator
            .run(&self.burst, &path.out, &mut path.sinks)?;
        let processor = self.meter.read()?.saturating_sub(before);
        path.check()?;
        Ok((moved, processor))
    }
}
