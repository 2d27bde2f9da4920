//! The kernel path with stock clients: which way packets take, and that all else stays as it is.

use anyhow::ensure;
use ocserv_tests::bed::{GATEWAY4, GATEWAY6, LAN4, LAN6, OTHER_PASSWORD, OTHER_USER};
use ocserv_tests::datagrams::{self, Arrived};
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{Config, Login, scenario, scenario_with_clients, traffic};

/// Fits into a record of 512 bytes.
const SHORT: usize = 200;
/// Does not.
const LONG: usize = 1000;

#[test]
fn pings_pass_in_the_kernel_alone() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let added = datapath::packets_of_pings(&server, &client)?;
        ensure!(added.kernel_rx >= 40 && added.kernel_tx >= 40, "{added:?}");
        ensure!((added.user_rx, added.user_tx) == (0, 0), "{added:?}");
        Ok(())
    });
}

/// Transfers and datagrams to one of the gateway's addresses; `true`: long packets pass in the kernel.
fn everything_passes(max_record: &str, gateway: &str, in_kernel: bool) {
    scenario(|bed| {
        let config = Config::new(bed).set("xdp-max-record", max_record);
        let server = datapath::start(bed, &config)?;
        let client = Login::new().to_address(gateway).connect_dtls(bed)?;
        traffic::transfer_all_ways(bed, &client, 1_000_000)?;
        let long = packets(&server)?;
        // Full segments; what acknowledges them is short.
        let (rx, tx) = (long.user_rx < 1000, long.user_tx < 1000);
        ensure!((rx, tx) == (in_kernel, in_kernel), "{long:?}");
        datapath::wait_in_kernel(&server, &client)?;
        let before = packets(&server)?;
        datagrams::pass_all_ways(bed, &client, SHORT)?;
        let after = packets(&server)?;
        ensure!(after.kernel_rx - before.kernel_rx >= 200, "{after:?}");
        ensure!(after.kernel_tx - before.kernel_tx >= 200, "{after:?}");
        datagrams::pass_all_ways(bed, &client, LONG)?;
        let now = Datapath::of(&server)?;
        for reason in ["replay", "authentication", "malformed", "frame"] {
            ensure!(now.dropped(reason)? == 0, "{now:?}");
        }
        Ok(())
    });
}

#[test]
fn long_packets_pass_in_user_space_where_it_is_told_not_to_take_them() {
    everything_passes("512", GATEWAY4, false);
}

#[test]
fn long_packets_pass_in_user_space_over_ipv6_outside() {
    everything_passes("512", GATEWAY6, false);
}

#[test]
fn long_packets_pass_in_the_kernel_where_it_is_told_to_take_them() {
    everything_passes("1530", GATEWAY4, true);
}

#[test]
fn long_packets_pass_in_the_kernel_over_ipv6_outside() {
    everything_passes("1530", GATEWAY6, true);
}

#[test]
fn short_packets_do_not_overtake_long_ones() {
    const GROUPS: usize = 50;
    scenario(|bed| {
        let config = Config::new(bed).set("xdp-max-record", "512");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let sizes = [LONG, SHORT, SHORT, LONG, SHORT];
        let own = client.address4()?;
        let before = Datapath::of(&server)?;
        for (from, to, address) in [
            (client.namespace(), bed.lan(), LAN4),
            (bed.lan(), client.namespace(), own.as_str()),
        ] {
            let Arrived {
                count, overtaken, ..
            } = datagrams::pass(from, to, address, GROUPS, &sizes)?;
            ensure!(count == GROUPS * sizes.len(), "{count} to {address}");
            // A dataplane that gets no processor time is overtaken; without the rule it is in all groups.
            ensure!(overtaken < GROUPS / 5, "{overtaken} to {address}");
        }
        let after = Datapath::of(&server)?;
        let left = after.left("bulk")? - before.left("bulk")?;
        ensure!(left >= 2 * 2 * GROUPS as u64, "{after:?}");
        // Nothing long is on its way any more.
        datapath::wait_in_kernel(&server, &client)
    });
}

#[test]
fn clients_reach_each_other_in_the_kernel() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed)
            .add("route", "10.30.0.0/24")
            .add("route", "fd30::/64");
        let server = datapath::start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let bob = login.connect_dtls(bed)?;
        let before = packets(&server)?;
        datapath::pings_to(alice.namespace(), &bob.address4()?)?;
        datapath::pings_to(bob.namespace(), &alice.address6()?)?;
        let after = packets(&server)?;
        // Each echo enters and leaves twice; the first ones may find a neighbour unknown.
        ensure!(after.kernel_rx - before.kernel_rx >= 74, "{after:?}");
        ensure!(after.kernel_tx - before.kernel_tx >= 74, "{after:?}");
        let address = bob.address4()?;
        traffic::transfer(alice.namespace(), bob.namespace(), &address, 500_000)
    });
}

#[test]
fn a_client_cannot_use_the_address_of_another() {
    scenario_with_clients(2, |bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let alice = Login::new().connect_dtls(bed)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let bob = login.connect_dtls(bed)?;
        for (thief, owner) in [(&alice, &bob), (&bob, &alice)] {
            let pairs = [
                (owner.address4()?, "", LAN4),
                (owner.address6()?, "nodad", LAN6),
            ];
            for (address, flags, lan) in pairs {
                let before = Datapath::of(&server)?.dropped("source")?;
                thief.namespace().ip(&format!(
                    "address add {address} dev {} {flags}",
                    thief.device()
                ))?;
                let arrives = traffic::datagram_arrives(thief, bed, &address, lan)?;
                ensure!(!arrives, "{address} passed");
                thief
                    .namespace()
                    .ip(&format!("address del {address} dev {}", thief.device()))?;
                let after = Datapath::of(&server)?.dropped("source")?;
                ensure!(after - before >= 10, "{before} {after}");
            }
        }
        datapath::wait_in_kernel(&server, &alice)?;
        datapath::wait_in_kernel(&server, &bob)
    });
}
