//! What the end of a process leaves of the kernel path, and what goes on without it.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ocserv_tests::bed::LAN4;
use ocserv_tests::client::{CSTP_UP, DTLS_UP};
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{Bed, Config, Login, Role, Server, process, scenario, scenario_with_clients};
use ocserv_tests::{traffic, wait};

/// What is left of the kernel path in this bed's gateway: the tun device, programs on devices.
fn left(bed: &Bed) -> Result<Vec<String>> {
    let devices = bed.gateway().ip("-d link show")?;
    let is_ours = |line: &&str| line.contains("prog/xdp") || line.contains("vpns");
    Ok(devices.lines().filter(is_ours).map(str::to_owned).collect())
}

/// Numbers of the programs that a server has loaded.
fn program_ids(server: &Server) -> Result<Vec<u64>> {
    let text = server.occtl_text(&["-j", "show", "datapath"])?;
    let programs = text.split("\"Programs\":").nth(1).context("no programs")?;
    let programs = programs.lines().next().unwrap_or_default();
    let id = |part: &str| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Ok(programs.split("\"ID\":  ").skip(1).filter_map(id).collect())
}

/// Waits until the kernel knows none of these programs.
fn wait_unloaded(ids: &[u64]) -> Result<()> {
    ensure!(ids.len() == 5, "{ids:?}");
    wait::until_true("the programs' end", wait::SHORT, || {
        ids.iter().all(|id| !is_loaded(*id as u32))
    })
}

fn is_loaded(id: u32) -> bool {
    aya::programs::loaded_programs().any(|program| program.is_ok_and(|program| program.id() == id))
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_program_and_no_device() {
    scenario(|bed| {
        let config = Config::new(bed);
        let mut server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let ids = program_ids(&server)?;
        ensure!(ids.iter().all(|id| is_loaded(*id as u32)), "{ids:?}");
        ensure!(!left(bed)?.is_empty());
        process::signal(server.pid(), Signal::SIGKILL);
        wait::until_true("the end of the server", wait::SHORT, || {
            !server.is_running()
        })?;
        wait::until_true("no device", wait::SHORT, || {
            left(bed).is_ok_and(|left| left.is_empty())
        })?;
        wait_unloaded(&ids)?;
        drop((client, server));
        let server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)
    });
}

#[test]
fn sigterm_takes_programs_and_device_along() {
    scenario(|bed| {
        let mut server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let ids = program_ids(&server)?;
        ensure!(server.terminate(wait::LONG)?.success());
        let left = left(bed)?;
        ensure!(left.is_empty(), "{left:?}");
        wait_unloaded(&ids)
    });
}

#[test]
fn the_kernel_path_goes_on_while_the_dataplane_is_replaced() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        for _ in 0..3 {
            let before = packets(&server)?;
            let running = std::thread::scope(|scope| {
                let echoes = scope.spawn(|| {
                    let ping = ["-n", "-q", "-c60", "-i0.01", "-W2", LAN4];
                    client.namespace().must("ping", &ping)
                });
                server.kill_and_wait_replaced(Role::Dataplane)?;
                echoes.join().expect("a ping")
            })?;
            ensure!(running.contains(" 60 received"), "{running}");
            let after = packets(&server)?;
            ensure!(after.kernel_rx - before.kernel_rx >= 60, "{after:?}");
            datapath::wait_in_kernel(&server, &client)?;
        }
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        ensure!(client.count(DTLS_UP) == 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn the_dataplane_can_be_stopped_while_short_packets_pass() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let pids = server.wait_pids(Role::Dataplane)?;
        for pid in &pids {
            process::signal(*pid, Signal::SIGSTOP);
        }
        let outcome = datapath::pings(&client);
        for pid in &pids {
            process::signal(*pid, Signal::SIGCONT);
        }
        outcome
    });
}

#[test]
fn the_death_of_a_gate_ends_its_sessions_only() {
    scenario_with_clients(2, |bed| {
        let server = datapath::start(bed, &Config::new(bed).set("sessions-per-gate", "1"))?;
        let mut alice = Login::new().connect_dtls(bed)?;
        let bob = Login::new().from_site(1).connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &alice)?;
        datapath::wait_in_kernel(&server, &bob)?;
        let address = ocserv_tests::bed::Site::new(0).address4();
        for pid in server.gates_of(&address)? {
            process::signal(pid, Signal::SIGKILL);
        }
        datapath::pings(&bob)?;
        alice.wait_log_times(DTLS_UP, 2)?;
        datapath::wait_in_kernel(&server, &alice)?;
        datapath::wait_in_kernel(&server, &bob)?;
        ensure!(bob.count(CSTP_UP) == 1, "{}", bob.log());
        ensure!(Datapath::of(&server)?.number("Sessions in kernel")? == 2);
        Ok(())
    });
}
