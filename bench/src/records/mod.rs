//! Processor time of the gateway for each packet: records that the load generator sealed itself, in
//! a closed loop, so that no client program is in the way.

mod case;
pub(crate) mod contender;
pub(crate) mod cores;
pub(crate) mod generator;
pub(crate) mod packet;
pub(crate) mod path;
mod peers;
mod plot;
mod raw;
pub(crate) mod sample;
pub(crate) mod session;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::case::Choice;
use self::contender::Contender;
use crate::Scale;
use crate::report::Report;
use crate::side::{SideName, client_cpus, on_cpus};

pub use self::case::{Case, Direction, Traffic};
pub use self::contender::Kind;
pub use self::peers::PeerTable;
pub use self::table::Table;

/// What of the figure is wanted.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    choice: Choice,
    /// `xdp-max-record` of ours with the kernel path, in the figure `records`; its default otherwise.
    #[arg(long)]
    max_record: Option<u32>,
    /// The gateways' devices merge UDP that they forward (`rx-udp-gro-forwarding`), in the figure
    /// `records`.
    #[arg(long)]
    udp_gro: bool,
    /// Where the picture of the figure `records` goes; beside the JSON result otherwise.
    #[arg(long)]
    pub svg: Option<PathBuf>,
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
        .map(|kind| start(kind, options).context(kind.text()))
        .collect::<Result<Vec<_>>>()?;
    raise_file_limit()?;
    let outcome = measure_all(&mut contenders, options, scale, report);
    if outcome.is_err() {
        contenders
            .iter()
            .for_each(|contender| eprintln!("{}", contender.bed().logs()));
    }
    contenders.into_iter().try_for_each(Contender::close)?;
    outcome?;
    if only.is_none() {
        peers::measure(&options.choice, scale, report).context("peers")?;
    }
    Ok(())
}

fn start(kind: Kind, options: &Options) -> Result<Contender> {
    let contender = Contender::start(kind, options.max_record)?;
    if options.udp_gro {
        cores::merge_udp(contender.bed())?;
    }
    Ok(contender)
}

/// Each session has two sockets here. After the start of the servers, which shall not inherit it.
pub(crate) fn raise_file_limit() -> Result<()> {
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
    let (subject, meter) = (contender.subject()?, contender.meter()?);
    let before = contender.passed()?;
    let mut sample = on_cpus(&cpus, || {
        sample::take(&subject, &meter, case, scale.packets)
    })??;
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
