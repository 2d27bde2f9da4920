//! Links that lose packets, change their order, repeat them, or get narrow in the middle of a transfer.

use anyhow::{Result, ensure};
use ocserv_tests::bed::LAN4;
use ocserv_tests::client::{CSTP_UP, DTLS_UP};
use ocserv_tests::datagrams;
use ocserv_tests::datapath::{self, packets};
use ocserv_tests::lossy::Narrow;
use ocserv_tests::{
    Bed, Client, Config, Faults, Login, LossyLink, Server, scenario, traffic, wait,
};

const BYTES: usize = 500_000;

/// Transfers over a bad link; all that can go wrong there did.
fn transfer_over(bed: &Bed, client: &Client, link: &LossyLink) -> Result<()> {
    let before = link.counts();
    link.set(Faults::BAD);
    traffic::transfer_all_ways(bed, client, BYTES)?;
    link.set(Faults::NONE);
    let now = link.counts();
    ensure!(now.lost > before.lost + 10, "{now:?}");
    ensure!(now.delayed > before.delayed + 25, "{now:?}");
    ensure!(now.repeated > before.repeated + 5, "{now:?}");
    ensure!(client.count(CSTP_UP) == 1, "{}", client.log());
    Ok(())
}

/// Packets pass in the kernel, in user space, or in both.
fn transfers_by_dtls(settings: &[(&str, &str)], seed: u64, paths: (bool, bool)) {
    scenario(|bed| {
        let link = LossyLink::insert(bed, seed)?;
        let config = settings
            .iter()
            .fold(Config::new(bed), |config, (key, value)| {
                config.set(key, value)
            });
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        transfer_over(bed, &client, &link)?;
        ensure!(client.count(DTLS_UP) == 1, "{}", client.log());
        let passed = packets(&server)?;
        let in_kernel = passed.kernel_rx > 0 && passed.kernel_tx > 0;
        let in_user_space = passed.user_rx > 0 && passed.user_tx > 0;
        ensure!((in_kernel, in_user_space) == paths, "{passed:?}");
        Ok(())
    });
}

#[test]
fn transfers_by_dtls_in_user_space() {
    transfers_by_dtls(&[("xdp", "off")], 1, (false, true));
}

#[test]
fn transfers_by_dtls_with_the_kernel_path() {
    transfers_by_dtls(&[], 2, (true, true));
}

#[test]
fn transfers_by_dtls_in_the_kernel() {
    transfers_by_dtls(&[("xdp-max-record", "1530")], 3, (true, false));
}

#[test]
fn transfers_by_tls_alone() {
    scenario(|bed| {
        let link = LossyLink::insert(bed, 4)?;
        let _server = Server::start(bed, &Config::new(bed).without("udp-port"))?;
        let client = Login::new().connect(bed)?;
        transfer_over(bed, &client, &link)
    });
}

#[test]
fn a_tunnel_comes_up() {
    scenario(|bed| {
        let link = LossyLink::insert(bed, 5)?;
        let _server = Server::start(bed, &Config::new(bed))?;
        link.set(Faults {
            lost: 100,
            ..Faults::BAD
        });
        let client = Login::new().connect_dtls(bed)?;
        link.set(Faults::NONE);
        traffic::ping_all_ways(bed, &client)
    });
}

/// Each record opens once, wherever it comes in a window of some packets.
fn datagrams_arrive_once(settings: &[(&str, &str)], seed: u64) {
    const GROUPS: usize = 50;
    scenario(|bed| {
        let link = LossyLink::insert(bed, seed)?;
        let config = settings
            .iter()
            .fold(Config::new(bed), |config, (key, value)| {
                config.set(key, value)
            });
        let _server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        link.set(Faults {
            delayed: 200,
            repeated: 200,
            ..Faults::NONE
        });
        let sizes = [200, 100, 1200, 60, 1200, 200];
        let own = client.address4()?;
        for (from, to, address) in [
            (client.namespace(), bed.lan(), LAN4),
            (bed.lan(), client.namespace(), own.as_str()),
        ] {
            let arrived = datagrams::pass(from, to, address, GROUPS, &sizes)?;
            let all = (GROUPS * sizes.len(), 0);
            ensure!(
                (arrived.count, arrived.repeated) == all,
                "{arrived:?} at {address}"
            );
            ensure!(arrived.overtaken > 0, "{arrived:?} at {address}");
        }
        Ok(())
    });
}

#[test]
fn datagrams_arrive_once_in_user_space() {
    datagrams_arrive_once(&[("xdp", "off")], 6);
}

#[test]
fn datagrams_arrive_once_in_the_kernel() {
    datagrams_arrive_once(&[("xdp-max-record", "1530")], 7);
}

/// Transfers both ways while the link gets narrow, and narrower than a record with a packet of IPv6 may
/// have to be.
fn transfers_while_the_link_gets_narrow(xdp: &str, seed: u64) {
    scenario(|bed| {
        let link = LossyLink::insert(bed, seed)?;
        let config = Config::new(bed)
            .set("try-mtu-discovery", "true")
            .set("xdp", xdp);
        let _server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        for mtu in [1400, 1300] {
            let before = link.counts().too_long;
            traffic::transfer_during(bed, &client, || {
                link.set(Faults { mtu, ..Faults::BAD });
                wait::until_true("a packet that is too long", wait::SHORT, || {
                    link.counts().too_long > before
                })
            })?;
        }
        let tunnels = (client.count(CSTP_UP), client.count(DTLS_UP));
        ensure!(tunnels == (1, 1), "{}", client.log());
        Ok(())
    });
}

#[test]
fn transfers_in_user_space_while_the_link_gets_narrow() {
    transfers_while_the_link_gets_narrow("off", 8);
}

#[test]
fn transfers_with_the_kernel_path_while_the_link_gets_narrow() {
    transfers_while_the_link_gets_narrow("auto", 9);
}

#[test]
fn a_transfer_goes_on_when_the_link_gets_narrow_without_a_word() {
    scenario(|bed| {
        let link = LossyLink::insert(bed, 10)?;
        // Packets of IPv6 would be too long for a record, and the TLS connection has the same path.
        let config = Config::new(bed)
            .set("try-mtu-discovery", "true")
            .without("ipv6-network");
        let _server = datapath::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        // The width of the link is proven then, and nothing is open.
        client.wait_log("Got DTLS DPD request")?;
        let own = client.address4()?;
        traffic::transfer_to_during(bed, &client, &own, || {
            link.set(Faults {
                mtu: 1300,
                narrow: Narrow::SilentToClient,
                ..Faults::NONE
            });
            wait::until_true("a packet that is too long", wait::SHORT, || {
                link.counts().too_long > 0
            })
        })?;
        traffic::transfer(bed.lan(), client.namespace(), &own, BYTES)?;
        let tunnels = (client.count(CSTP_UP), client.count(DTLS_UP));
        ensure!(tunnels == (1, 1), "{}", client.log());
        Ok(())
    });
}
