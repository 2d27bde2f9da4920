//! TCP through the tunnel of one stock client, and the server's processor time for it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ocserv_tests::bed::LAN4;
use ocserv_tests::namespace::Protocol;
use ocserv_tests::{Client, Login, Server, process, wait};
use serde::Deserialize;

use crate::Scale;
use crate::cost;
use crate::report::{Better, Report};
use crate::side::{Certificate, Side, client_cpus, on_cpus};

const IPERF_PORT: u16 = 5201;

/// Which channel carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Dtls,
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Measures both channels in both directions, the programs in turns.
///
/// # Errors
/// When a tunnel does not come up or `iperf3` fails.
pub fn measure(sides: &[Side], scale: Scale, report: &mut Report) -> Result<()> {
    for channel in [Channel::Dtls, Channel::Tls] {
        for round in 1..=scale.rounds {
            for side in sides {
                run_round(side, channel, round, scale.transfer, report)
                    .with_context(|| format!("{channel:?}, {}", side.name().text()))?;
            }
        }
    }
    Ok(())
}

fn run_round(
    side: &Side,
    channel: Channel,
    round: usize,
    span: Duration,
    report: &mut Report,
) -> Result<()> {
    const GIGA: f64 = 1e9;
    let server = side.start(Certificate::Rsa)?;
    let cpus = client_cpus()?;
    let client = on_cpus(&cpus, || match channel {
        Channel::Dtls => Login::new().connect_dtls(side.bed()),
        Channel::Tls => Login::new().argument("--no-dtls").connect(side.bed()),
    })??;
    let path = match channel {
        Channel::Dtls => "DTLS",
        Channel::Tls => "TLS",
    };
    for (direction, word) in [(Direction::Up, "up"), (Direction::Down, "down")] {
        let moved = on_cpus(&cpus, || transfer(side, &client, &server, direction, span))??;
        let megabits = moved.bits_per_second / 1e6;
        let cost = moved.processor.as_secs_f64() / (moved.bytes / GIGA);
        let (rate_name, cost_name) = (
            format!("throughput, {path}, {word}"),
            format!("server CPU per GB, {path}, {word}"),
        );
        report.add(&rate_name, "Mbit/s", Better::Higher, side.name(), megabits);
        report.add(&cost_name, "s", Better::Lower, side.name(), cost);
        report.progress(&format!(
            "{rate_name}, round {round}, {}: {megabits:.0} Mbit/s, {cost:.2} s CPU per GB",
            side.name().text()
        ));
    }
    Ok(())
}

struct Moved {
    bits_per_second: f64,
    bytes: f64,
    processor: Duration,
}

fn transfer(
    side: &Side,
    client: &Client,
    server: &Server,
    direction: Direction,
    span: Duration,
) -> Result<Moved> {
    let lan = side.bed().lan();
    let mut sink = lan.spawn(
        Command::new("iperf3")
            .args(["-s", "-1", "-B", LAN4])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    let listens = || lan.is_bound(Protocol::Tcp, IPERF_PORT).unwrap_or(false);
    wait::until_true("iperf3 to listen", wait::SHORT, listens)?;
    let before = cost::processor_time(server.pid())?;
    let seconds = span.as_secs().to_string();
    let mut arguments = vec!["-c", LAN4, "-t", &seconds, "-J"];
    if direction == Direction::Down {
        arguments.push("-R");
    }
    let outcome = client.namespace().must("iperf3", &arguments);
    let processor = cost::processor_time(server.pid())?.saturating_sub(before);
    process::reap(&mut sink);
    let text = outcome.context("iperf3")?;
    let summary = serde_json::from_str::<Iperf>(&text).context("iperf3's output")?;
    let received = summary.end.sum_received;
    if received.bytes <= 0.0 {
        bail!("nothing was received");
    }
    Ok(Moved {
        bits_per_second: received.bits_per_second,
        bytes: received.bytes,
        processor,
    })
}

/// What is needed of `iperf3 -J`.
#[derive(Debug, Deserialize)]
struct Iperf {
    end: End,
}

#[derive(Debug, Deserialize)]
struct End {
    sum_received: Received,
}

#[derive(Debug, Deserialize)]
struct Received {
    bytes: f64,
    bits_per_second: f64,
}
