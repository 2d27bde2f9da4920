//! `xdp-forward = direct`: past the host's stack.

use anyhow::{Result, ensure};
use ocserv_tests::bed::{LAN4, OTHER_PASSWORD, OTHER_USER};
use ocserv_tests::datapath::{self, Datapath, counted};
use ocserv_tests::{
    Bed, Client, Config, Login, Namespace, Server, datagrams, scenario, scenario_with_clients,
    traffic, wait,
};

fn config(bed: &Bed) -> Config {
    Config::new(bed)
        .set("xdp-forward", "direct")
        .set("xdp-lan-interface", "lan0")
        .set("xdp-max-record", "1530")
}

fn start(bed: &Bed, config: &Config) -> Result<Server> {
    // A veth takes what XDP sends only if its peer has NAPI.
    for end in bed.clients().iter().chain([bed.lan()]) {
        end.must("ethtool", &["-K", "eth0", "gro", "on"])?;
    }
    datapath::start(bed, config)
}

/// Packets that passed the stack by, from and to clients.
fn direct(server: &Server) -> Result<[u64; 2]> {
    let now = Datapath::of(server)?;
    Ok([
        now.number("Direct RX packets")?,
        now.number("Direct TX packets")?,
    ])
}

/// Waits until pings to the lan pass the stack by, both ways.
fn wait_direct(server: &Server, client: &Client) -> Result<()> {
    wait::until_true("pings past the stack", wait::LONG, || {
        let before = direct(server);
        let passed = datapath::pings(client).is_ok();
        let (Ok(before), Ok(after)) = (before, direct(server)) else {
            return false;
        };
        passed && after[0] - before[0] >= 40 && after[1] - before[1] >= 40
    })
}

#[test]
fn packets_pass_the_stack_by() {
    scenario(|bed| {
        let server = start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        // Neighbours become known by the stack's own packets.
        traffic::ping_all_ways(bed, &client)?;
        bed.gateway().nft(
            "table inet guard { chain c { type filter hook forward priority 0; policy drop; }; }",
        )?;
        datapath::pings(&client)?;
        traffic::transfer_all_ways(bed, &client, 1_000_000)?;
        datagrams::pass_all_ways(bed, &client, 200)?;
        let passed = direct(&server)?;
        ensure!(passed[0] > 500 && passed[1] > 500, "{passed:?}");
        Ok(())
    });
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
        let server = start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_direct(&server, &client)?;
        for end in [client.namespace(), bed.lan()] {
            count_hops(end)?;
        }
        wait_direct(&server, &client)?;
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
        let server = start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        bed.gateway().ip("link set lan0 mtu 1300")?;
        bed.lan().ip("link set eth0 mtu 1300")?;
        wait_direct(&server, &client)?;
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
fn neighbours_and_addresses_of_the_lan_may_change() {
    scenario(|bed| {
        let server = start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_direct(&server, &client)?;
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
            wait_direct(&server, &client)?;
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
        let server = start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let bob = login.connect_dtls(bed)?;
        datapath::pings_to(alice.namespace(), &bob.address4()?)?;
        datapath::pings_to(bob.namespace(), &alice.address6()?)?;
        let (from, to) = (alice.namespace(), bob.namespace());
        traffic::transfer(from, to, &bob.address4()?, 300_000)?;
        wait_direct(&server, &alice)?;
        wait_direct(&server, &bob)?;
        let stolen = bob.address4()?;
        let device = alice.device();
        from.ip(&format!("address add {stolen}/32 dev {device}"))?;
        let before = Datapath::of(&server)?.dropped("source")?;
        ensure!(!traffic::datagram_arrives(&alice, bed, &stolen, LAN4)?);
        ensure!(Datapath::of(&server)?.dropped("source")? - before >= 10);
        Ok(())
    });
}

#[test]
fn the_gateway_itself_is_reached_and_a_lan_cable_may_be_unplugged() {
    scenario(|bed| {
        let server = start(bed, &config(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_direct(&server, &client)?;
        let now = Datapath::of(&server)?;
        ensure!(
            now.device("lan0").as_deref() == Some("lan native"),
            "{now:?}"
        );
        ensure!(
            now.device("wan0").as_deref() == Some("wan native"),
            "{now:?}"
        );
        // The gateway itself is reached from both sides.
        traffic::ping(bed.lan(), "10.20.0.1")?;
        traffic::ping(client.namespace(), "10.20.0.1")?;
        bed.lan().ip("link set eth0 down")?;
        ensure!(!traffic::is_answered(client.namespace(), LAN4));
        bed.lan().ip("link set eth0 up")?;
        bed.lan().ip("route replace default via 10.20.0.1")?;
        traffic::ping(client.namespace(), LAN4)?;
        traffic::ping(bed.lan(), &client.address4()?)
    });
}

#[test]
fn without_native_mode_packets_pass_the_stack_by_too() {
    scenario(|bed| {
        let server = start(bed, &config(bed).set("xdp", "generic"))?;
        let client = Login::new().connect_dtls(bed)?;
        wait_direct(&server, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn a_lan_device_that_takes_no_programs_is_reached_by_the_stack() {
    scenario(|bed| {
        bed.bridge_lan()?;
        let config = config(bed)
            .set("xdp", "native")
            .set("xdp-lan-interface", "bridge0");
        let server = start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        let now = Datapath::of(&server)?;
        ensure!(now.device("bridge0").is_none(), "{now:?}");
        traffic::ping_all_ways(bed, &client)?;
        datapath::wait_in_kernel(&server, &client)?;
        ensure!(direct(&server)? == [0, 0]);
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn where_one_device_has_no_native_mode_none_has() {
    scenario(|bed| {
        bed.bridge_lan()?;
        let config = config(bed)
            .set("xdp", "auto")
            .set("xdp-lan-interface", "bridge0");
        let server = start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        wait_direct(&server, &client)?;
        let now = Datapath::of(&server)?;
        let modes = ["wan0", "bridge0"].map(|device| now.device(device));
        let modes = modes.each_ref().map(Option::as_deref);
        ensure!(modes == ["wan generic", "lan generic"].map(Some), "{now:?}");
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}
