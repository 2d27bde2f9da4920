//! Measures Debian's ocserv and ours in the same run, in turns, on the same network bed; with `ebpf`, what
//! a record costs in the kernel programs.
//!
//! Needs root, for the comparison `iperf3` and both programs; `docs/benchmarks.md` says how to read the result.

mod client;
mod cost;
mod dtls;
mod ebpf;
mod logins;
mod memory;
mod records;
mod report;
mod side;
mod stress;
mod targets;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::Report;
use crate::side::{Side, SideName};

/// What a run measures and how long.
#[derive(Debug, Parser)]
#[command(
    name = "ocserv-bench",
    about = "Compares ocserv with Debian's ocserv 1.1.6",
    args_conflicts_with_subcommands = true
)]
struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// One short round of everything, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Length of each round of logins and of each transfer.
    #[arg(long, conflicts_with = "quick")]
    seconds: Option<u64>,
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Only one of the programs.
    #[arg(long, value_enum)]
    side: Option<SideName>,
    #[command(flatten)]
    records: records::Options,
    #[command(flatten)]
    stress: stress::Options,
    /// Where the JSON result goes.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// What is measured in place of the comparison.
#[derive(Debug, Subcommand)]
enum Other {
    /// What a record costs in the kernel programs.
    Ebpf(ebpf::Options),
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// Logins a second, and processor time of each.
    Logins,
    /// Memory of idle sessions.
    Memory,
    /// TCP through the tunnel.
    Throughput,
    /// Processor time of each packet.
    Records,
    /// One packet thread, and one for each processor.
    Cores,
    /// Throughput of sessions beside floods of strangers.
    Floods,
    /// Delay of small packets beside bulk.
    Latency,
    /// Memory, descriptors and losses under load and turnover, for long; only if it is asked for.
    Soak,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: usize,
    login_round: Duration,
    sessions: usize,
    transfer: Duration,
    packets: Duration,
    is_quick: bool,
}

impl Scale {
    const FULL: Self = Self {
        rounds: 3,
        login_round: Duration::from_secs(4),
        sessions: 200,
        transfer: Duration::from_secs(5),
        packets: Duration::from_millis(400),
        is_quick: false,
    };
    const QUICK: Self = Self {
        rounds: 1,
        login_round: Duration::from_secs(1),
        sessions: 20,
        transfer: Duration::from_secs(1),
        packets: Duration::from_millis(200),
        is_quick: true,
    };
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.other {
        Some(Other::Ebpf(options)) => ebpf::run(options),
        None => run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let scale = if options.quick {
        Scale::QUICK
    } else {
        Scale::FULL
    };
    let scale = match options.seconds.map(Duration::from_secs) {
        Some(span) => Scale {
            login_round: span,
            transfer: span,
            packets: span,
            ..scale
        },
        None => scale,
    };
    let sides = side::all(options.side).context("setting up the beds")?;
    let mut report = Report::begin(scale);
    let failures = measure(&sides, options, scale, &mut report);
    if !failures.is_empty() {
        sides
            .iter()
            .for_each(|side| eprintln!("{}", side.bed().logs()));
    }
    for side in sides {
        side.close()?;
    }
    report.end();
    report.write_json(&options.json)?;
    println!("\n{}", report.markdown());
    println!(
        "{:.0} s; the numbers as JSON: {}",
        started.elapsed().as_secs_f64(),
        options.json.display()
    );
    let beside = options.json.with_extension("svg");
    let picture = options.records.svg.as_ref().unwrap_or(&beside);
    if report.write_svg(picture)? {
        println!("the costs of packets as a picture: {}", picture.display());
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    report.stress.verdict()
}

/// Measures what is wanted, and returns what failed: the other figures are worth having.
fn measure(sides: &[Side], options: &Options, scale: Scale, report: &mut Report) -> Vec<String> {
    let wanted = |figure| match figure {
        Figure::Soak => options.only.contains(&figure),
        _ => options.only.is_empty() || options.only.contains(&figure),
    };
    let mut failures = Vec::new();
    for figure in Figure::value_variants() {
        if !wanted(*figure) {
            continue;
        }
        if let Err(error) = measure_one(*figure, sides, options, scale, report) {
            let name = figure.to_possible_value();
            let name = name.as_ref().map_or("", |name| name.get_name());
            failures.push(format!("{name}: {error:#}"));
        }
    }
    failures
}

fn measure_one(
    figure: Figure,
    sides: &[Side],
    options: &Options,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let side = options.side;
    match figure {
        Figure::Logins => logins::measure(sides, scale, report),
        Figure::Memory => memory::measure(sides, scale, report),
        Figure::Throughput => throughput::measure(sides, scale, report),
        Figure::Records => records::measure(&options.records, side, scale, report),
        Figure::Cores => stress::cores::measure(side, scale, report),
        Figure::Floods => stress::floods::measure(&options.stress, side, scale, report),
        Figure::Latency => stress::latency::measure(side, scale, report),
        Figure::Soak => stress::soak::measure(&options.stress, report),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_options_do_not_contradict_each_other() {
        super::Options::command().debug_assert();
    }
}
