//! Established sessions beside senders that are nobody: how much of their throughput is left.
//!
//! The flood comes from the load's processor, whose time it takes as well. So its rate is fixed, and one
//! case sends the same flood past the gateway, to an Ethernet address that nobody has: what is lost there
//! is the load's own loss.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use ocserv_tests::bed::{PORT, Site};
use serde::Serialize;

use super::Options;
use super::flood::{self, Ammunition, Form};
use super::streams::{Lan, Outcome, Pace, Plan, Streams};
use crate::Scale;
use crate::cost;
use crate::records::contender::{Contender, Kind};
use crate::records::cores::{self, Meter};
use crate::records::{Direction, raise_file_limit};
use crate::report::{Report, Samples};
use crate::side::{SideName, client_cpus, on_cpus};

/// Programs that are compared.
const KINDS: [Kind; 3] = [Kind::Reference, Kind::OursUser, Kind::OursKernel];
/// Sessions with small packets, beside the one with bulk; every second one's come down.
const SMALL_SESSIONS: usize = 16;
const BULK_WINDOW: u64 = 32;
const SMALL_WINDOW: u64 = 4;
/// Datagrams a second.
const RATE: f64 = 50_000.0;
/// Connections a second that are closed at once, and those that stay.
const CHURN: f64 = 500.0;
const CONNECTIONS: usize = 2000;
const QUICK_CONNECTIONS: usize = 200;
const CONNECT_SPAN: Duration = Duration::from_secs(20);
/// Before it counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// What must be left, share.
const GOAL: f64 = 0.8;
/// An address of the client's network that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

/// What disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The flood misses the gateway.
    Past,
    /// Random bytes of strangers.
    Noise,
    /// ClientHellos of strangers.
    Hellos,
    /// Records of strangers.
    Records,
    /// Records from other ports of the address that the sessions come from.
    Neighbours,
    /// Short records in the names of the sessions.
    JunkShort,
    /// Long ones.
    JunkLong,
    /// Connections that come and go.
    Churn,
    /// Connections that stay and say nothing.
    Silent,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Floods {
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    trouble: Trouble,
    kind: Kind,
    /// Datagrams or connections a second, or connections.
    reached: Samples,
    /// Packets a second: bulk and small ones, undisturbed and then.
    bulk_before: Samples,
    bulk: Samples,
    small_before: Samples,
    small: Samples,
    /// Shares of what it was undisturbed.
    bulk_kept: Samples,
    small_kept: Samples,
    /// Shares of the packets.
    lost_before: Samples,
    lost: Samples,
    /// Processors' worth of time.
    gateway_before: Samples,
    gateway: Samples,
}

/// Measures all programs, in turns, each time undisturbed first.
///
/// # Errors
/// When a program does not start, or a packet is damaged.
pub fn measure(
    options: &Options,
    only: Option<SideName>,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let wanted = KINDS.into_iter();
    let wanted = wanted.filter(|kind| only.is_none_or(|only| kind.side() == only));
    let mut contenders = wanted
        .map(|kind| Contender::start(kind, None).context(kind.text()))
        .collect::<Result<Vec<_>>>()?;
    raise_file_limit()?;
    let outcome = on_cpus(&client_cpus()?, || {
        measure_all(&mut contenders, &options.trouble, scale, report)
    })?;
    if outcome.is_err() {
        contenders
            .iter()
            .for_each(|contender| eprintln!("{}", contender.bed().logs()));
    }
    contenders.into_iter().try_for_each(Contender::close)?;
    outcome
}

fn measure_all(
    contenders: &mut [Contender],
    wanted: &[Trouble],
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for contender in &mut *contenders {
        let client = contender.bed().client(0);
        client.ip(&format!(
            "neighbour add {NOBODY} lladdr 02:00:00:00:00:99 nud permanent dev eth0"
        ))?;
        client.ip(&format!("route add {NOBODY} dev eth0"))?;
        contender
            .log_in(1 + SMALL_SESSIONS)
            .with_context(|| contender.kind().text())?;
    }
    let wanted = |trouble: &Trouble| wanted.is_empty() || wanted.contains(trouble);
    for trouble in Trouble::ALL.into_iter().filter(wanted) {
        for round in 1..=scale.rounds {
            for contender in &*contenders {
                let kind = contender.kind();
                let text = trouble.text();
                let pair = Pair::take(contender, trouble, scale)
                    .with_context(|| format!("{text}, {}", kind.text()))?;
                if matches!(trouble, Trouble::Churn | Trouble::Silent) {
                    rest(contender)?;
                }
                let floods = report.stress.floods.get_or_insert_default();
                let line = floods.row(trouble, kind).add(&pair);
                report.progress(&format!(
                    "floods, {text}, round {round}, {}: {line}",
                    kind.text()
                ));
            }
        }
    }
    Ok(())
}

/// Waits until a server has nothing more to do of its own trouble: a process for each connection goes on
/// beside the next contender otherwise.
fn rest(contender: &Contender) -> Result<()> {
    /// As `/proc` counts: two ticks of a hundredth of a second.
    const IDLE: Duration = Duration::from_millis(20);
    const SPAN: Duration = Duration::from_millis(500);
    const LIMIT: Duration = Duration::from_secs(60);
    let Some(server) = contender.server() else {
        return Ok(());
    };
    let begun = Instant::now();
    let mut spent = cost::processor_time(server.pid())?;
    while begun.elapsed() < LIMIT {
        thread::sleep(SPAN);
        let now = cost::processor_time(server.pid())?;
        if now.saturating_sub(spent) <= IDLE {
            return Ok(());
        }
        spent = now;
    }
    Ok(())
}

/// Undisturbed and disturbed.
struct Pair {
    before: Sample,
    then: Sample,
    /// How strong the trouble was, in its own unit.
    reached: f64,
}

struct Sample {
    bulk: f64,
    small: f64,
    lost: f64,
    gateway: f64,
}

impl Pair {
    fn take(contender: &Contender, trouble: Trouble, scale: Scale) -> Result<Self> {
        let plans = plans();
        let lan = Lan::open(contender, plans.len())?;
        let limit = BULK_WINDOW + SMALL_WINDOW * SMALL_SESSIONS as u64;
        let mut streams = Streams::new(&plans, limit, contender.sessions(), &lan)?;
        let meter = contender.meter()?;
        let mut sample = || {
            streams.run(WARM_UP)?;
            Sample::take(&mut streams, &meter, 2 * scale.packets)
        };
        let before = sample()?;
        let is_alive = before.bulk > 0.0 && before.small > 0.0;
        ensure!(
            is_alive,
            "nothing disturbs, and of bulk {:.0} packets/s arrive, of small ones {:.0}",
            before.bulk,
            before.small
        );
        let (then, reached) = trouble.beside(contender, scale, sample)?;
        Ok(Self {
            before,
            then,
            reached,
        })
    }
}

/// Bulk up in the first session, small packets in the others.
fn plans() -> Vec<Plan> {
    let bulk = Plan {
        session: 0,
        direction: Direction::Up,
        size: 1400,
        pace: Pace::Window(BULK_WINDOW),
    };
    let small = (1..=SMALL_SESSIONS).map(|session| Plan {
        session,
        direction: match session % 2 {
            0 => Direction::Down,
            _ => Direction::Up,
        },
        size: 64,
        pace: Pace::Window(SMALL_WINDOW),
    });
    [bulk].into_iter().chain(small).collect()
}

impl Sample {
    fn take(streams: &mut Streams<'_>, meter: &Meter, span: Duration) -> Result<Self> {
        let before = meter.read_living();
        let outcome = streams.run(span)?;
        let processor = meter.read_living().saturating_sub(before);
        Ok(Self {
            bulk: outcome.rate(|place| place == 0),
            small: outcome.rate(|place| place > 0),
            lost: lost(&outcome),
            gateway: processor.as_secs_f64() / outcome.wall.as_secs_f64(),
        })
    }
}

fn lost(outcome: &Outcome) -> f64 {
    let sent = outcome.sum(|tally| tally.sent);
    outcome.sum(super::tally::Tally::lost) as f64 / sent as f64
}

impl Trouble {
    const ALL: [Self; 9] = [
        Self::Past,
        Self::Noise,
        Self::Hellos,
        Self::Records,
        Self::Neighbours,
        Self::JunkShort,
        Self::JunkLong,
        Self::Churn,
        Self::Silent,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::Past => "records past the gateway",
            Self::Noise => "random bytes",
            Self::Hellos => "ClientHellos",
            Self::Records => "records of strangers",
            Self::Neighbours => "records from the sessions' address",
            Self::JunkShort => "junk in sessions' names, short",
            Self::JunkLong => "junk in sessions' names, long",
            Self::Churn => "TCP connections, closed at once",
            Self::Silent => "silent TCP connections",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Silent => "open",
            _ => "a second",
        }
    }

    /// What is sent, if it is datagrams.
    fn ammunition(self, contender: &Contender) -> Result<Option<Ammunition>> {
        let site = Site::new(0);
        let (own, other) = (site.address4().parse()?, site.other_address4().parse()?);
        let sessions = contender.sessions().iter();
        let flows: Vec<_> = sessions
            .map(|session| SocketAddrV4::new(own, session.port.local_addr().port()))
            .collect();
        let spared: Vec<_> = flows.iter().map(SocketAddrV4::port).collect();
        let strangers =
            |address, form, length| Ammunition::from_strangers(address, &spared, form, length);
        let overhead = contender.sessions().first().map_or(0, |one| one.overhead());
        let junk = |size| -> Result<_> {
            let mut junk = strangers(own, Form::Record, size + overhead)?;
            junk.sources.clone_from(&flows);
            Ok(junk)
        };
        Ok(Some(match self {
            Self::Past => Ammunition {
                to: SocketAddrV4::new(NOBODY, PORT),
                ..strangers(other, Form::Record, 64 + overhead)?
            },
            Self::Noise => strangers(other, Form::Noise, 64 + overhead)?,
            Self::Hellos => strangers(other, Form::Hello, flood::LEAST_HELLO + 15)?,
            Self::Records => strangers(other, Form::Record, 64 + overhead)?,
            Self::Neighbours => strangers(own, Form::Record, 64 + overhead)?,
            Self::JunkShort => junk(64)?,
            Self::JunkLong => junk(1400)?,
            Self::Churn | Self::Silent => return Ok(None),
        }))
    }

    /// Does `work` while there is trouble; also returns how strong it was.
    fn beside<T>(
        self,
        contender: &Contender,
        scale: Scale,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, f64)> {
        let client = contender.bed().client(0);
        if self == Self::Silent {
            let count = if scale.is_quick {
                QUICK_CONNECTIONS
            } else {
                CONNECTIONS
            };
            let open: Vec<TcpStream> =
                client.run(|| flood::connect_many(count, CONNECT_SPAN))??;
            cores::settle();
            let done = work()?;
            let reached = open.len() as f64;
            drop(open);
            return Ok((done, reached));
        }
        let ammunition = self.ammunition(contender)?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                client.run(|| match &ammunition {
                    Some(ammunition) => flood::shoot(ammunition, RATE, &stop),
                    None => flood::churn(CHURN, &stop),
                })
            });
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let reached = sender
                .join()
                .map_err(|_| anyhow!("the sender panicked"))???;
            Ok((done?, reached))
        })
    }
}

impl Floods {
    fn row(&mut self, trouble: Trouble, kind: Kind) -> &mut Row {
        let is_it = |row: &Row| (row.trouble, row.kind) == (trouble, kind);
        let at = self.rows.iter().position(is_it).unwrap_or_else(|| {
            self.rows.push(Row::new(trouble, kind));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// What was left of the throughput.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "\nThroughput beside floods, % of undisturbed; a session with bulk up and {SMALL_SESSIONS} with \
             small packets up and down. Below {:.0} % in bold:\n\n\
             | | | reached | bulk kept | small kept | lost, % | gateway, % of a processor |\n\
             |---|---|---:|---:|---:|---:|---:|\n",
            GOAL * 1e2
        );
        for row in &self.rows {
            let change = |before: &Samples, then: &Samples| {
                let shown = |samples: &Samples| {
                    let median = samples.times(1e2).median();
                    median.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
                };
                format!("{} → {}", shown(before), shown(then))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} {} | {} | {} | {} | {} |",
                row.trouble.text(),
                row.kind.text(),
                row.reached.shown(),
                row.trouble.unit(),
                kept(&row.bulk_kept),
                kept(&row.small_kept),
                change(&row.lost_before, &row.lost),
                change(&row.gateway_before, &row.gateway),
            );
        }
        text
    }
}

fn kept(samples: &Samples) -> String {
    let shown = samples.times(1e2).shown();
    match samples.median() {
        Some(share) if share < GOAL => format!("**{shown}**"),
        _ => shown,
    }
}

impl Row {
    fn new(trouble: Trouble, kind: Kind) -> Self {
        Self {
            trouble,
            kind,
            reached: Samples::default(),
            bulk_before: Samples::default(),
            bulk: Samples::default(),
            small_before: Samples::default(),
            small: Samples::default(),
            bulk_kept: Samples::default(),
            small_kept: Samples::default(),
            lost_before: Samples::default(),
            lost: Samples::default(),
            gateway_before: Samples::default(),
            gateway: Samples::default(),
        }
    }

    /// Adds a round, and says what it was.
    fn add(&mut self, pair: &Pair) -> String {
        let (before, then) = (&pair.before, &pair.then);
        let (bulk, small) = (then.bulk / before.bulk, then.small / before.small);
        self.reached.push(pair.reached);
        self.bulk_before.push(before.bulk);
        self.bulk.push(then.bulk);
        self.small_before.push(before.small);
        self.small.push(then.small);
        self.bulk_kept.push(bulk);
        self.small_kept.push(small);
        self.lost_before.push(before.lost);
        self.lost.push(then.lost);
        self.gateway_before.push(before.gateway);
        self.gateway.push(then.gateway);
        format!(
            "{:.0} {}; bulk {:.0} of {:.0} packets/s ({:.0} %), small {:.0} of {:.0} ({:.0} %), \
             {:.2} % lost, gateway {:.0} % (before {:.0} %)",
            pair.reached,
            self.trouble.unit(),
            then.bulk,
            before.bulk,
            bulk * 1e2,
            then.small,
            before.small,
            small * 1e2,
            then.lost * 1e2,
            then.gateway * 1e2,
            before.gateway * 1e2
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Samples, kept};

    #[test]
    fn what_is_below_the_goal_stands_out() {
        let mut samples = Samples::default();
        samples.push(0.81);
        assert_eq!(kept(&samples), "81.0");
        let mut samples = Samples::default();
        samples.push(0.79);
        assert_eq!(kept(&samples), "**79.0**");
    }
}
