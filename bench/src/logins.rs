//! Logins a second in a closed loop, and the server's processor time for each.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ocserv_tests::Server;
use rustls::ClientConfig;

use crate::Scale;
use crate::client::{Connection, tls_settings};
use crate::cost;
use crate::report::{Better, Report};
use crate::side::{Certificate, Side, client_cpus, on_cpus};

/// Clients at once.
const CROWDS: [usize; 2] = [1, 32];
/// How long after the last login the server may still work on it.
const SETTLE: Duration = Duration::from_millis(300);

/// The row of logins a second with so many clients at once.
pub fn name_of_rate(certificate: Certificate, crowd: usize) -> String {
    format!("logins/s, {}, {}", certificate.text(), clients(crowd))
}

/// Measures all combinations, the programs in turns.
///
/// # Errors
/// When a login fails.
pub fn measure(sides: &[Side], scale: Scale, report: &mut Report) -> Result<()> {
    for certificate in Certificate::ALL {
        for crowd in CROWDS {
            let name = name_of_rate(certificate, crowd);
            let cost_name = format!(
                "server CPU per login, {}, {}",
                certificate.text(),
                clients(crowd)
            );
            for round in 1..=scale.rounds {
                for side in sides {
                    let server = side.start(certificate)?;
                    let outcome = run_round(side, &server, crowd, scale.login_round)
                        .with_context(|| format!("{name}, {}", side.name().text()))?;
                    let rate = outcome.logins as f64 / outcome.wall.as_secs_f64();
                    let each = outcome.processor.as_secs_f64() * 1e3 / outcome.logins as f64;
                    report.add(&name, "1/s", Better::Higher, side.name(), rate);
                    report.add(&cost_name, "ms", Better::Lower, side.name(), each);
                    report.note_cipher(side.name(), certificate.text(), &outcome.cipher);
                    report.progress(&format!(
                        "{name}, round {round}, {}: {rate:.0}/s, {each:.2} ms CPU each",
                        side.name().text()
                    ));
                }
            }
        }
    }
    Ok(())
}

struct Outcome {
    logins: usize,
    wall: Duration,
    processor: Duration,
    cipher: String,
}

fn run_round(side: &Side, server: &Server, crowd: usize, span: Duration) -> Result<Outcome> {
    let settings = tls_settings()?;
    let namespace = side.bed().client(0);
    let cpus = client_cpus()?;
    // The first login shows that it works, and warms caches.
    let cipher = namespace.run(|| log_in(&settings))??;
    thread::sleep(SETTLE);
    let before = cost::processor_time(server.pid())?;
    let started = Instant::now();
    let logins = on_cpus(&cpus, || {
        namespace.run(|| run_crowd(&settings, crowd, span))
    })???;
    let wall = started.elapsed();
    thread::sleep(SETTLE);
    let processor = cost::processor_time(server.pid())?.saturating_sub(before);
    ensure!(logins > 0, "not one login");
    Ok(Outcome {
        logins,
        wall,
        processor,
        cipher,
    })
}

fn run_crowd(settings: &Arc<ClientConfig>, crowd: usize, span: Duration) -> Result<usize> {
    let deadline = Instant::now() + span;
    let work = || {
        let mut logins = 0;
        while Instant::now() < deadline {
            log_in(settings)?;
            logins += 1;
        }
        Ok::<_, anyhow::Error>(logins)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..crowd).map(|_| scope.spawn(work)).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .map(|result| result.map_err(|_| anyhow!("a client panicked"))?)
            .sum()
    })
}

/// One whole login on a connection of its own; returns what TLS agreed on.
fn log_in(settings: &Arc<ClientConfig>) -> Result<String> {
    let mut connection = Connection::open(settings)?;
    connection.log_in()?;
    let cipher = connection.cipher();
    connection.close();
    Ok(cipher)
}

fn clients(crowd: usize) -> String {
    match crowd {
        1 => "1 client".to_owned(),
        many => format!("{many} clients"),
    }
}
