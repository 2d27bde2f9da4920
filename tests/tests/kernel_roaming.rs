//! Clients that move or renew their keys, and devices that change: packets return to the kernel path.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use ocserv_tests::bed::{GATEWAY4, LAN4, PORT, Site};
use ocserv_tests::client::{CSTP_UP, DTLS_UP};
use ocserv_tests::datapath::{self, Datapath};
use ocserv_tests::{Bed, Client, Config, Login, Server, scenario, traffic, wait};

/// Gives the client machine another address in place of its first.
fn move_client(bed: &Bed) -> Result<()> {
    let site = Site::new(0);
    let (old, new) = (site.address4(), site.other_address4());
    let machine = bed.client(0);
    machine.ip(&format!("address add {new}/32 dev eth0"))?;
    machine.ip(&format!("route replace {GATEWAY4}/32 dev eth0 src {new}"))?;
    machine.ip(&format!("address del {old}/32 dev eth0"))?;
    Ok(())
}

#[test]
fn a_client_that_reconnects_is_in_the_kernel_again() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        move_client(bed)?;
        client.signal(Signal::SIGUSR2);
        client.wait_log_times(DTLS_UP, 2)?;
        datapath::wait_in_kernel(&server, &client)?;
        ensure!(Datapath::of(&server)?.number("Sessions in kernel")? == 1);
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn a_channel_that_moves_to_another_port_is_in_the_kernel_again() {
    const OWN: u16 = 40001;
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new()
            .argument(&format!("--dtls-local-port={OWN}"))
            .connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        for mapped in [50001, 50002] {
            // What a NAT router does that forgot the flow.
            client.namespace().nft(&format!(
                "table inet oxc_nat {{ }}
                 delete table inet oxc_nat
                 table inet oxc_nat {{
                    chain output {{ type filter hook output priority 0;
                        udp sport {OWN} udp dport {PORT} udp sport set {mapped}; }}
                    chain input {{ type filter hook prerouting priority -300;
                        udp sport {PORT} udp dport {mapped} udp dport set {OWN}; }}
                }}"
            ))?;
            let moved = format!(
                "{}:{mapped} the DTLS channel moved",
                Site::new(0).address4()
            );
            wait::until_true("the channel to move", wait::LONG, || {
                traffic::is_answered(client.namespace(), LAN4) && server.log().contains(&moved)
            })?;
            datapath::wait_in_kernel(&server, &client)?;
        }
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        ensure!(client.count(CSTP_UP) == 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn renewed_keys_are_in_the_kernel() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rekey-time", "4")
            .set("rekey-method", "ssl");
        let server = datapath::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        for channel in 2..=3 {
            wait::until_true("a new channel", wait::LONG, || {
                traffic::is_answered(client.namespace(), LAN4) && client.count(DTLS_UP) >= channel
            })?;
            datapath::wait_in_kernel(&server, &client)?;
        }
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        let now = Datapath::of(&server)?;
        ensure!(now.dropped("authentication")? == 0, "{now:?}");
        ensure!(client.count(CSTP_UP) == 1, "{}", client.log());
        client.log_out()?;
        wait::until_true("no session in the kernel", wait::SHORT, || {
            let now = Datapath::of(&server).and_then(|now| now.number("Sessions in kernel"));
            now.is_ok_and(|sessions| sessions == 0)
        })
    });
}

/// Lays the client's cable again, as [`Bed::new`] laid it.
fn lay_cable_again(bed: &Bed) -> Result<()> {
    let (gateway, machine) = (bed.gateway(), bed.client(0));
    let site = Site::new(0);
    let own = site.address4();
    gateway.ip("link del wan0")?;
    let peer = format!("peer name eth0 netns {}", machine.name());
    gateway.ip(&format!("link add wan0 type veth {peer}"))?;
    gateway.ip("link set wan0 up gso_max_segs 1")?;
    machine.ip("link set eth0 up gso_max_segs 1")?;
    bed.complete_checksums()?;
    gateway.ip(&format!("address add {GATEWAY4}/32 dev wan0"))?;
    gateway.ip(&format!("route add {own}/32 dev wan0 src {GATEWAY4}"))?;
    machine.ip(&format!("address add {own}/32 dev eth0"))?;
    machine.ip(&format!("route add {GATEWAY4}/32 dev eth0 src {own}"))?;
    Ok(())
}

fn wait_device(server: &Server, name: &str, expected: Option<&str>) -> Result<()> {
    wait::until_true(&format!("{name} as {expected:?}"), wait::SHORT, || {
        Datapath::of(server).is_ok_and(|now| now.device(name).as_deref() == expected)
    })
}

/// Waits until a channel is used again, the old one or another, then for the kernel.
fn wait_recovered(bed: &Bed, server: &Server, client: &Client) -> Result<()> {
    wait::until_true("an echo", wait::LONG, || {
        traffic::is_answered(client.namespace(), LAN4)
    })?;
    datapath::wait_in_kernel(server, client)?;
    traffic::transfer(client.namespace(), bed.lan(), LAN4, 300_000)
}

#[test]
fn programs_follow_a_device_that_is_made_anew() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        wait_device(&server, "wan0", Some("wan native"))?;
        lay_cable_again(bed)?;
        server.wait_log("device wan0 has no programs any more")?;
        wait_device(&server, "wan0", Some("wan native"))?;
        wait_recovered(bed, &server, &client)?;
        ensure!(client.count(CSTP_UP) == 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn programs_follow_a_device_that_is_switched_off_and_on() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let own = Site::new(0).address4();
        bed.gateway().ip("link set wan0 down")?;
        wait_device(&server, "wan0", None)?;
        bed.gateway().ip("link set wan0 up")?;
        bed.gateway()
            .ip(&format!("route replace {own}/32 dev wan0 src {GATEWAY4}"))?;
        wait_device(&server, "wan0", Some("wan native"))?;
        wait_recovered(bed, &server, &client)
    });
}

#[test]
fn programs_follow_the_listening_address() {
    scenario(|bed| {
        let config = Config::new(bed).set("listen-host", GATEWAY4);
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        wait_device(&server, "lan0", None)?;
        // The address moves to another device; packets still come by the cable.
        bed.gateway()
            .ip("link add other0 type veth peer name other1")?;
        bed.gateway().ip("link set other0 up")?;
        bed.gateway()
            .ip(&format!("address add {GATEWAY4}/32 dev other0"))?;
        wait_device(&server, "other0", Some("wan native"))?;
        bed.gateway()
            .ip(&format!("address del {GATEWAY4}/32 dev wan0"))?;
        wait_device(&server, "wan0", None)?;
        let own = Site::new(0).address4();
        bed.gateway()
            .ip(&format!("route replace {own}/32 dev wan0 src {GATEWAY4}"))?;
        wait::until_true("an echo", wait::LONG, || {
            traffic::is_answered(client.namespace(), LAN4)
        })?;
        bed.gateway()
            .ip(&format!("address add {GATEWAY4}/32 dev wan0"))?;
        wait_device(&server, "wan0", Some("wan native"))?;
        wait_recovered(bed, &server, &client)
    });
}
