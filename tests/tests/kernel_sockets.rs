//! `xdp-sockets`: past the host's stack by sockets of the dataplane, with stock clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use ocserv_tests::bed::{LAN4, OTHER_PASSWORD, OTHER_USER};
use ocserv_tests::datagrams::{self, Arrived};
use ocserv_tests::datapath::{self, Datapath, counted};
use ocserv_tests::{
    Bed, Client, Config, Login, Namespace, Role, Server, scenario, scenario_with_clients, traffic,
    wait,
};

fn config(bed: &Bed) -> Config {
    Config::new(bed)
        .set("xdp-forward", "direct")
        .set("xdp-lan-interface", "lan0")
        .set("xdp-sockets", "true")
}

/// What sockets received, from and to clients.
fn received(server: &Server) -> Result<[u64; 2]> {
    let now = Datapath::of(server)?;
    Ok([
        now.number("Socket RX packets")?,
        now.number("Socket TX packets")?,
    ])
}

/// Waits until pings to the lan come by sockets, both ways.
fn wait_by_sockets(server: &Server, client: &Client) -> Result<()> {
    wait::until_true("pings by sockets", wait::LONG, || {
        let before = received(server);
        let passed = datapath::pings(client).is_ok();
        let (Ok(before), Ok(after)) = (before, received(server)) else {
            return false;
        };
        passed && after[0] - before[0] >= 40 && after[1] - before[1] >= 40
    })
}

/// Has the gateway's stack forward nothing.
fn close_the_stack(bed: &Bed) -> Result<()> {
    bed.gateway()
        .nft("table inet guard { chain c { type filter hook forward priority 0; policy drop; }; }")
}

#[test]
fn packets_pass_the_stack_by() {
    for cipher in ["AES-256-GCM", "CHACHA20-POLY1305"] {
        scenario(|bed| {
            let priorities = format!("NORMAL:-CIPHER-ALL:+AES-128-GCM:+{cipher}");
            let config = config(bed).set("tls-priorities", &format!("\"{priorities}\""));
            let server = datapath::start(bed, &config)?;
            let client = Login::new().connect_dtls(bed)?;
            // Neighbours become known by the stack's own packets.
            traffic::ping_all_ways(bed, &client)?;
            wait_by_sockets(&server, &client)?;
            close_the_stack(bed)?;
            datapath::pings(&client)?;
            traffic::transfer_all_ways(bed, &client, 1_000_000)?;
            datagrams::pass_all_ways(bed, &client, 200)?;
            datagrams::pass_all_ways(bed, &client, 1200)?;
            let [rx, tx] = received(&server)?;
            ensure!(rx > 500 && tx > 500, "{rx} {tx}");
            // No packet left to the stack can have passed, so what passed was sent by sockets too.
            let pids = server.pids(Role::Dataplane)?;
            ensure!(pids.len() == 1, "{pids:?}");
            Ok(())
        });
    }
}

/// Counts echo packets that arrive with one hop less than they were sent with.
fn count_hops(namespace: &Namespace) -> Result<()> {
    namespace.nft(
        "table inet oxc_hops {
            counter fewer { }
            counter other { }
            chain input { type filter hook input priority 0;
                ip ttl 63 icmp type { echo-request, echo-reply } counter name fewer
                ip6 hoplimit 63 icmpv6 type { echo-request, echo-reply } counter name fewer
                ip ttl != 63 icmp type { echo-request, echo-reply } counter name other
                ip6 hoplimit != 63 icmpv6 type { echo-request, echo-reply } counter name other
            }
        }",
    )
}

#[test]
fn the_gateway_is_one_hop() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_by_sockets(&server, &client)?;
        for end in [client.namespace(), bed.lan()] {
            count_hops(end)?;
        }
        wait_by_sockets(&server, &client)?;
        for end in [client.namespace(), bed.lan()] {
            ensure!(counted(end, "inet oxc_hops", "fewer")? >= 40);
            ensure!(counted(end, "inet oxc_hops", "other")? == 0);
        }
        // The stack answers what has no hop left.
        let own = client.address4()?;
        for (from, to) in [(client.namespace(), LAN4), (bed.lan(), own.as_str())] {
            let said = from.output("ping", &["-n", "-c1", "-t1", "-W2", to])?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            ensure!(said.contains("Time to live exceeded"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn what_is_too_long_for_the_lan_is_answered_by_the_stack() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        bed.gateway().ip("link set lan0 mtu 1300")?;
        bed.lan().ip("link set eth0 mtu 1300")?;
        wait_by_sockets(&server, &client)?;
        let ping = ["-n", "-c1", "-W2", "-M", "do", "-s", "1350", LAN4];
        let said = client.namespace().output("ping", &ping)?;
        let said = ocserv_tests::process::text(&said);
        ensure!(
            said.contains("mtu = 1300") || said.contains("mtu=1300"),
            "{said}"
        );
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn neighbours_of_the_lan_may_change() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_by_sockets(&server, &client)?;
        let changes = [
            (bed.gateway(), "lan0", "02:00:00:00:20:01"),
            (bed.lan(), "eth0", "02:00:00:00:20:02"),
        ];
        for (end, device, mac) in changes {
            end.ip(&format!("link set {device} address {mac}"))?;
            for (other, device) in [(bed.gateway(), "lan0"), (bed.lan(), "eth0")] {
                other.ip(&format!("neigh flush dev {device}"))?;
            }
            traffic::ping_all_ways(bed, &client)?;
            wait_by_sockets(&server, &client)?;
        }
        Ok(())
    });
}

#[test]
fn clients_reach_each_other_and_no_foreign_source_passes() {
    scenario_with_clients(2, |bed| {
        let config = config(bed)
            .add("route", "10.30.0.0/24")
            .add("route", "fd30::/64");
        let server = datapath::start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let bob = login.connect_dtls(bed)?;
        datapath::pings_to(alice.namespace(), &bob.address4()?)?;
        datapath::pings_to(bob.namespace(), &alice.address6()?)?;
        let (from, to) = (alice.namespace(), bob.namespace());
        traffic::transfer(from, to, &bob.address4()?, 300_000)?;
        wait_by_sockets(&server, &alice)?;
        wait_by_sockets(&server, &bob)?;
        let stolen = bob.address4()?;
        let device = alice.device();
        from.ip(&format!("address add {stolen}/32 dev {device}"))?;
        ensure!(!traffic::datagram_arrives(&alice, bed, &stolen, LAN4)?);
        Ok(())
    });
}

#[test]
fn packets_keep_their_order() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_by_sockets(&server, &client)?;
        let own = client.address4()?;
        let sizes = [1000, 100, 700, 1300, 300].into_iter().cycle();
        let burst = sizes.clone().take(150).map(|size| (size, Duration::ZERO));
        let singles = sizes.take(30).map(|size| (size, Duration::from_millis(5)));
        let steps: Vec<_> = burst.chain(singles).collect();
        let steps = steps.repeat(8);
        for (from, to, address) in [
            (client.namespace(), bed.lan(), LAN4),
            (bed.lan(), client.namespace(), own.as_str()),
        ] {
            let Arrived {
                count,
                overtaken,
                repeated,
            } = datagrams::pass_paced(from, to, address, &steps)?;
            // On a busy machine queues of the cables may be full.
            ensure!(
                count > steps.len() / 2 && overtaken == 0 && repeated == 0,
                "{count}, {overtaken} overtaken, {repeated} repeated, to {address}"
            );
        }
        Ok(())
    });
}

#[test]
fn another_dataplane_has_sockets_again() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_by_sockets(&server, &client)?;
        for _ in 0..2 {
            server.kill_and_wait_replaced(Role::Dataplane)?;
            traffic::ping_all_ways(bed, &client)?;
            wait_by_sockets(&server, &client)?;
        }
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn a_cable_may_be_unplugged() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_by_sockets(&server, &client)?;
        // The gateway itself is reached from both sides.
        traffic::ping(bed.lan(), "10.20.0.1")?;
        traffic::ping(client.namespace(), "10.20.0.1")?;
        bed.lan().ip("link set eth0 down")?;
        ensure!(!traffic::is_answered(client.namespace(), LAN4));
        bed.lan().ip("link set eth0 up")?;
        bed.lan().ip("route replace default via 10.20.0.1")?;
        traffic::ping(client.namespace(), LAN4)?;
        traffic::ping(bed.lan(), &client.address4()?)?;
        bed.gateway().ip("link set lan0 down")?;
        ensure!(!traffic::is_answered(client.namespace(), LAN4));
        bed.gateway().ip("link set lan0 up")?;
        traffic::ping(client.namespace(), LAN4)?;
        traffic::ping(bed.lan(), &client.address4()?)
    });
}
