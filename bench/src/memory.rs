//! Memory of idle sessions, each with its TLS connection and a DTLS channel.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ocserv_tests::Server;
use rustls::ClientConfig;

use crate::Scale;
use crate::client::{Connection, tls_settings};
use crate::cost;
use crate::dtls::Channel;
use crate::report::{Better, Report};
use crate::side::{Certificate, Side};

/// Until what is only needed during set-up has been given back.
const SETTLE: Duration = Duration::from_secs(2);
const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1024.0;

/// The row of all memory of the process tree, divided by the sessions.
pub fn name_of_share(sessions: usize) -> String {
    format!("memory a session, whole tree, {sessions} sessions (PSS)")
}

/// Opens the sessions on each program and weighs its processes, at half of them and at all.
///
/// # Errors
/// When a session does not come up.
pub fn measure(sides: &[Side], scale: Scale, report: &mut Report) -> Result<()> {
    for side in sides {
        let server = side.start(Certificate::Rsa)?;
        let settings = tls_settings()?;
        // Whatever is set up at the first use belongs to no session.
        drop(open_sessions(side, &settings, 1)?);
        thread::sleep(SETTLE);
        let idle = cost::memory(server.pid())?;
        let mut add = |name: &str, unit, value| {
            report.add(name, unit, Better::Lower, side.name(), value);
        };
        add("memory without sessions (PSS)", "MiB", idle as f64 / MIB);
        let mut sessions = Vec::new();
        for count in [scale.sessions / 2, scale.sessions] {
            sessions.extend(open_sessions(side, &settings, count - sessions.len())?);
            thread::sleep(SETTLE);
            weigh(side, &server, idle, count, report)?;
        }
    }
    Ok(())
}

fn weigh(side: &Side, server: &Server, idle: u64, count: usize, report: &mut Report) -> Result<()> {
    let all = cost::memory(server.pid())?;
    let processes = cost::pids(server.pid())?.len();
    let (all, idle) = (all as f64, idle as f64);
    let each = |bytes: f64| bytes / count as f64 / KIB;
    // Below zero, if other processes have come to share more of its pages than the sessions took.
    let (share, more) = (each(all), each(all - idle));
    let total = all / MIB;
    let mut add = |name: &str, unit, value| {
        report.add(name, unit, Better::Lower, side.name(), value);
    };
    add(&name_of_share(count), "KiB", share);
    let name = format!("memory a session beyond the idle server, {count} sessions (PSS)");
    add(&name, "KiB", more);
    add(&format!("memory with {count} sessions (PSS)"), "MiB", total);
    add(
        &format!("processes with {count} sessions"),
        "",
        processes as f64,
    );
    report.progress(&format!(
        "{count} idle sessions, {}: {total:.0} MiB in {processes} processes, {share:.0} KiB a session, \
         {more:.0} of them beyond the idle server",
        side.name().text()
    ));
    Ok(())
}

type Session = (Connection, Channel);

fn open_sessions(side: &Side, settings: &Arc<ClientConfig>, count: usize) -> Result<Vec<Session>> {
    let open = || {
        (0..count)
            .map(|number| open_session(settings, number))
            .collect::<Result<Vec<_>>>()
    };
    side.bed()
        .client(0)
        .run(open)?
        .with_context(|| side.name().text())
}

fn open_session(settings: &Arc<ClientConfig>, number: usize) -> Result<Session> {
    let open = || {
        let mut connection = Connection::open(settings)?;
        let cookie = connection.log_in()?;
        let tunnel = connection.connect_tunnel(&cookie)?;
        let channel = Channel::open(&tunnel)?;
        Ok::<_, anyhow::Error>((connection, channel))
    };
    open().with_context(|| format!("session {number}"))
}
