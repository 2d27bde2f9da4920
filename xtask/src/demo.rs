//! `cargo xtask demo`: a stock client logs in, and its packets pass.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use ocserv_tests::bed::{HOST, LAN4, LAN6, USER};
use ocserv_tests::client::DTLS_UP;
use ocserv_tests::{Bed, Client, Config, Login, Program, Server, traffic};

use crate::{packages, require_root, root};

/// What each transfer moves.
const TRANSFER_BYTES: usize = 20_000_000;

/// Builds, shows, and tears down.
///
/// # Errors
/// At the first thing that does not work.
pub fn run(keep: bool) -> Result<()> {
    require_root("demo")?;
    let mut report = Report::default();
    report.step("packages", || {
        packages::install_missing(&[packages::BUILD, packages::BED])?;
        Ok("openconnect, openssl, a compiler".to_owned())
    })?;
    report.step("release build (minutes, the first time)", build)?;
    remove_on_signal_begin()?;
    let bed = report.value(
        "three network namespaces: client – gateway – lan",
        || {
            let bed = Bed::new(1, Program::in_directory(&release_directory()?)?)?;
            let shown = format!("{0}-c0, {0}-gw, {0}-lan", bed.name());
            Ok((bed, shown))
        },
    )?;
    remove_on_signal(&bed);
    let outcome = show(&bed, &mut report, keep);
    if outcome.is_err() {
        println!("\n{}", bed.logs());
    }
    println!("tearing down");
    bed.close().context("tear-down")?;
    outcome?;
    report.summary();
    Ok(())
}

/// Everything between set-up and tear-down.
fn show(bed: &Bed, report: &mut Report, keep: bool) -> Result<()> {
    println!(
        "      CA, certificate for {HOST}, user {USER} and ocserv.conf in {}",
        bed.directory().display()
    );
    let mut server = report.value("ocserv listens", || {
        let server = Server::start(bed, &Config::new(bed))?;
        let shown = format!("process {}", server.pid());
        Ok((server, shown))
    })?;
    let mut client = report.value("openconnect logs in", || {
        let client = Login::new().connect(bed)?;
        let shown = format!("{} and {}", client.address4()?, client.address6()?);
        Ok((client, shown))
    })?;
    report.step("DTLS is established", || {
        client.wait_log(DTLS_UP)?;
        let log = client.log();
        let line = log
            .lines()
            .find(|line| line.contains(DTLS_UP))
            .unwrap_or_default();
        Ok(line
            .split("Ciphersuite ")
            .nth(1)
            .unwrap_or(line)
            .trim_end_matches('.')
            .to_owned())
    })?;
    pings(bed, &client, report)?;
    transfers(bed, &client, report)?;
    report.step("occtl show users", || {
        let users = server.occtl_text(&["show", "users"])?;
        users.lines().for_each(|line| println!("      {line}"));
        if !users.contains(USER) {
            bail!("{USER} is not listed");
        }
        Ok(format!("{USER} is listed"))
    })?;
    if keep {
        hold(bed, &server, &client)?;
    }
    report.step("openconnect logs out", || {
        client.log_out()?;
        server.wait_log("user disconnected (reason: user disconnected")?;
        Ok("the gateway took note".to_owned())
    })?;
    report.step("ocserv ends and leaves nothing", || {
        const LIMIT: Duration = Duration::from_secs(15);
        let status = server.terminate(LIMIT)?;
        let left = server.leftovers()?;
        if !status.success() || !left.is_empty() {
            bail!("{status}, left: {left:?}");
        }
        Ok("no device, route, process or socket".to_owned())
    })
}

fn pings(bed: &Bed, client: &Client, report: &mut Report) -> Result<()> {
    let (own4, own6) = (client.address4()?, client.address6()?);
    for (name, from, to) in [
        ("ping client to lan, IPv4", client.namespace(), LAN4),
        ("ping client to lan, IPv6", client.namespace(), LAN6),
        ("ping lan to client, IPv4", bed.lan(), own4.as_str()),
        ("ping lan to client, IPv6", bed.lan(), own6.as_str()),
    ] {
        report.step(name, || traffic::ping(from, to).map(|()| to.to_owned()))?;
    }
    Ok(())
}

fn transfers(bed: &Bed, client: &Client, report: &mut Report) -> Result<()> {
    let (own4, own6) = (client.address4()?, client.address6()?);
    for (name, from, to, address) in [
        (
            "transfer client to lan, IPv4",
            client.namespace(),
            bed.lan(),
            LAN4,
        ),
        (
            "transfer lan to client, IPv4",
            bed.lan(),
            client.namespace(),
            own4.as_str(),
        ),
        (
            "transfer client to lan, IPv6",
            client.namespace(),
            bed.lan(),
            LAN6,
        ),
        (
            "transfer lan to client, IPv6",
            bed.lan(),
            client.namespace(),
            own6.as_str(),
        ),
    ] {
        report.step(name, || {
            let started = Instant::now();
            traffic::transfer(from, to, address, TRANSFER_BYTES)?;
            let seconds = started.elapsed().as_secs_f64();
            let megabits = TRANSFER_BYTES as f64 * 8.0 / 1e6 / seconds;
            Ok(format!(
                "{} MB intact, {megabits:.0} Mbit/s",
                TRANSFER_BYTES / 1_000_000
            ))
        })?;
    }
    Ok(())
}

/// Prints what to type, then waits for Ctrl-C, which ends the program elsewhere.
fn hold(bed: &Bed, server: &Server, client: &Client) -> Result<()> {
    let (directory, occtl) = (bed.directory().display(), bed.program().occtl.display());
    println!("\nEverything runs. In another terminal, as root, type for example:");
    println!(
        "    ip netns exec {} ping {LAN4}",
        client.namespace().name()
    );
    println!(
        "    ip netns exec {} ping {}",
        bed.lan().name(),
        client.address4()?
    );
    println!("    {occtl} -s {directory}/occtl.sock show user {USER}");
    println!("    {occtl} -s {directory}/occtl.sock disconnect user {USER}");
    println!("    tail -f {directory}/ocserv.log");
    println!(
        "    kill -HUP {}    # reloads {directory}/ocserv.conf",
        server.pid()
    );
    println!("Ctrl-C here removes everything.");
    loop {
        thread::park();
    }
}

fn build() -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release"])
        .current_dir(root()?)
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("cargo build --release: {status}");
    }
    Ok("ocserv, occtl, ocpasswd".to_owned())
}

/// Beside the directory of this program, which is `<target>/debug`.
fn release_directory() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let target = own
        .parent()
        .and_then(std::path::Path::parent)
        .context("no target directory")?;
    Ok(target.join("release"))
}

fn ending_signals() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
}

/// From here on the signals wait for [`remove_on_signal`].
fn remove_on_signal_begin() -> Result<()> {
    ending_signals().thread_block().context("blocking signals")
}

/// Removes the bed on Ctrl-C, then ends the program.
fn remove_on_signal(bed: &Bed) {
    let remover = bed.remover();
    thread::spawn(move || {
        // Fails only for a set that is no set.
        if let Ok(signal) = ending_signals().wait() {
            println!("\n{signal}: removing everything");
            remover.remove_now();
            const SIGNALLED: i32 = 128;
            std::process::exit(SIGNALLED + signal as i32);
        }
    });
}

/// Progress lines, and what passed.
#[derive(Default)]
struct Report {
    passed: Vec<(String, String)>,
}

impl Report {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        self.value(name, || Ok(((), work()?)))
    }

    fn value<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        println!("[{:>2}] {name}", self.passed.len() + 1);
        let started = Instant::now();
        let (value, shown) = work().with_context(|| format!("failed: {name}"))?;
        println!(
            "      ok: {shown} ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
        self.passed.push((name.to_owned(), shown));
        Ok(value)
    }

    fn summary(&self) {
        println!("\nPassed:");
        for (name, shown) in &self.passed {
            println!("  {name}: {shown}");
        }
        println!(
            "{} of {} steps passed; nothing is left behind",
            self.passed.len(),
            self.passed.len()
        );
    }
}
