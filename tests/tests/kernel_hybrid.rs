//! `xdp-max-record = auto` with stock clients: bursts through user space, the rest in the kernel.

use std::time::Duration;

use anyhow::ensure;
use ocserv_tests::bed::LAN4;
use ocserv_tests::datagrams::{self, Arrived};
use ocserv_tests::datapath::{self, packets};
use ocserv_tests::{Config, Login, scenario};

const SIZES: [usize; 5] = [1000, 100, 700, 1000, 300];
const BURST: usize = 150;
const SINGLES: usize = 30;
const ROUNDS: usize = 12;
/// Between single packets: more than what counts as close.
const PAUSE: Duration = Duration::from_millis(5);

/// Bursts, and packets far apart until the session is the kernel's again.
fn mixed() -> Vec<(usize, Duration)> {
    let sizes = SIZES.into_iter().cycle();
    let burst = sizes.clone().take(BURST).map(|size| (size, Duration::ZERO));
    let singles = sizes.take(SINGLES).map(|size| (size, PAUSE));
    let round: Vec<_> = burst.chain(singles).collect();
    round.repeat(ROUNDS)
}

#[test]
fn packets_keep_their_order_whichever_path_they_take() {
    packets_keep_their_order("native");
}

#[test]
fn packets_keep_their_order_behind_those_that_merge() {
    packets_keep_their_order("tc");
}

fn packets_keep_their_order(xdp: &str) {
    scenario(|bed| {
        // TC sees what merged; veth merges nothing unless told so, or has XDP.
        bed.gateway()
            .must("ethtool", &["-K", "wan0", "gro", "on"])?;
        let server = datapath::start(bed, &Config::new(bed).set("xdp", xdp))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let own = client.address4()?;
        let steps = mixed();
        for (from, to, address) in [
            (client.namespace(), bed.lan(), LAN4),
            (bed.lan(), client.namespace(), own.as_str()),
        ] {
            let before = packets(&server)?;
            let arrived = datagrams::pass_paced(from, to, address, &steps)?;
            let Arrived {
                count,
                overtaken,
                repeated,
            } = arrived;
            let after = packets(&server)?;
            let kernel = after.kernel_rx + after.kernel_tx - before.kernel_rx - before.kernel_tx;
            let user = after.user_rx + after.user_tx - before.user_rx - before.user_tx;
            ensure!(
                kernel >= (ROUNDS * SINGLES / 3) as u64 && user >= (ROUNDS * BURST / 20) as u64,
                "{kernel} in the kernel, {user} in user space to {address}"
            );
            // Datagrams of a burst may find a queue full, as on any wire: the client's socket holds 92 of 150.
            ensure!(count > steps.len() / 2, "{count} to {address}");
            ensure!(repeated == 0, "{repeated} to {address}");
            // A dataplane that gets no processor time for 50 ms may be overtaken.
            ensure!(overtaken <= ROUNDS / 4, "{overtaken} to {address}");
        }
        Ok(())
    });
}

#[test]
fn the_limit_its_reasons_and_the_shares_are_shown() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let shown = server.occtl_text(&["show", "datapath"])?;
        ensure!(shown.contains("Limit: auto\n"), "{shown}");
        let json = server.occtl_text(&["-j", "show", "datapath"])?;
        for name in ["From clients", "To clients in bursts", "Kernel, 1400 bytes"] {
            ensure!(json.contains(&format!("\"{name}\":")), "{json}");
        }
        ensure!(json.contains("\"Kernel share RX\":"), "{json}");
        let log = server.log();
        ensure!(log.contains("kernel path: records of up to "), "{log}");
        Ok(())
    });
}

#[test]
fn a_number_is_a_limit_for_all() {
    scenario(|bed| {
        let config = Config::new(bed).set("xdp-max-record", "600");
        let server = datapath::start(bed, &config)?;
        let shown = server.occtl_text(&["show", "datapath"])?;
        ensure!(shown.contains("Limit: fixed\n"), "{shown}");
        ensure!(shown.contains("Max record: 600\n"), "{shown}");
        Ok(())
    });
}

#[test]
fn without_a_loopback_nothing_is_measured_and_a_limit_holds() {
    scenario(|bed| {
        bed.gateway().ip("link set lo down")?;
        let server = datapath::start(bed, &Config::new(bed))?;
        server.wait_log("cannot measure what packets cost (sending datagrams to this host: ")?;
        let shown = server.occtl_text(&["show", "datapath"])?;
        ensure!(shown.contains("Limit: not measured\n"), "{shown}");
        ensure!(shown.contains("Max record: 512\n"), "{shown}");
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)
    });
}
