//! Memory of idle sessions, each with its TLS connection and a DTLS channel.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ClientConfig;

use crate::Scale;
use crate::client::{Connection, tls_settings};
use crate::cost;
use crate::dtls::Channel;
use crate::report::{Better, Report};
use crate::side::{Certificate, Side};

/// Until what is only needed during set-up has been given back.
const SETTLE: Duration = Duration::from_secs(2);

/// Opens the sessions on each program and weighs its processes.
///
/// # Errors
/// When a session does not come up.
pub fn measure(sides: &[Side], scale: Scale, report: &mut Report) -> Result<()> {
    const MIB: f64 = 1_048_576.0;
    const KIB: f64 = 1024.0;
    let count = scale.sessions;
    let names = [
        "memory of an idle session (PSS)".to_owned(),
        format!("memory with {count} sessions (PSS)"),
        "memory without sessions (PSS)".to_owned(),
        format!("processes with {count} sessions"),
    ];
    for side in sides {
        let server = side.start(Certificate::Rsa)?;
        let settings = tls_settings()?;
        // Whatever is set up at the first use belongs to no session.
        drop(open_sessions(side, &settings, 1)?);
        thread::sleep(SETTLE);
        let before = cost::memory(server.pid())?;
        let sessions = open_sessions(side, &settings, count)?;
        thread::sleep(SETTLE);
        let after = cost::memory(server.pid())?;
        let processes = cost::pids(server.pid())?.len();
        drop(sessions);
        let each = after.saturating_sub(before) as f64 / count as f64 / KIB;
        let total = after as f64 / MIB;
        report.add(&names[0], "KiB", Better::Lower, side.name(), each);
        report.add(&names[1], "MiB", Better::Lower, side.name(), total);
        report.add(
            &names[2],
            "MiB",
            Better::Lower,
            side.name(),
            before as f64 / MIB,
        );
        report.add(&names[3], "", Better::Lower, side.name(), processes as f64);
        report.progress(&format!(
            "{count} idle sessions, {}: {each:.0} KiB each, {total:.0} MiB in {processes} processes",
            side.name().text()
        ));
    }
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
