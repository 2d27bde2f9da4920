//! Paths narrower than their ends, with and without `try-mtu-discovery`.

use anyhow::{Context, Result};
use ocserv_tests::bed::{GATEWAY4, LAN4, LAN6, PORT, Site, USER};
use ocserv_tests::client::DTLS_UP;
use ocserv_tests::{Bed, Client, Config, Login, Namespace, Role, Server, scenario, traffic, wait};

/// IPv4 and UDP header, record of AES-GCM with its type byte.
const OVERHEAD: usize = 28 + 38;
/// The search ends so close to the truth.
const PRECISION: usize = 8;
const BYTES: usize = 500_000;

/// Two routers between the client and the gateway, with a link between them that can get narrow.
/// Neither end sees its MTU.
struct Routers {
    near_client: Namespace,
    near_gateway: Namespace,
}

impl Routers {
    /// Puts them in the place of the cable.
    fn insert(bed: &Bed) -> Result<Self> {
        let near_client = Namespace::create(&format!("{}-r1", bed.name()))?;
        let near_gateway = Namespace::create(&format!("{}-r2", bed.name()))?;
        let (client, gateway) = (bed.client(0), bed.gateway());
        gateway.ip("link delete wan0")?;
        for (from, device, to, peer) in [
            (gateway, "wan0", &near_gateway, "out"),
            (&near_gateway, "in", &near_client, "in"),
            (&near_client, "out", client, "eth0"),
        ] {
            let to = to.name();
            from.ip(&format!(
                "link add {device} type veth peer name {peer} netns {to}"
            ))?;
        }
        let all = [
            (gateway, "wan0"),
            (&near_gateway, "out"),
            (&near_gateway, "in"),
            (&near_client, "in"),
            (&near_client, "out"),
            (client, "eth0"),
        ];
        for (namespace, device) in all {
            namespace.ip(&format!("link set {device} up gso_max_segs 1"))?;
        }
        let address = Site::new(0).address4();
        gateway.ip(&format!("address add {GATEWAY4}/32 dev wan0"))?;
        gateway.ip(&format!("route add {address} dev wan0 src {GATEWAY4}"))?;
        client.ip(&format!("address add {address}/32 dev eth0"))?;
        client.ip(&format!("route add {GATEWAY4} dev eth0 src {address}"))?;
        for (router, towards_client, towards_gateway, own) in [
            (&near_client, "out", "in", "203.0.113.1"),
            (&near_gateway, "in", "out", "203.0.113.2"),
        ] {
            router.sysctl("net/ipv4/ip_forward", "1")?;
            // Its errors need a source.
            router.ip(&format!("address add {own}/32 dev lo"))?;
            for device in ["in", "out"] {
                router.sysctl(&format!("net/ipv4/conf/{device}/proxy_arp"), "1")?;
            }
            router.ip(&format!("route add {address} dev {towards_client}"))?;
            router.ip(&format!("route add {GATEWAY4} dev {towards_gateway}"))?;
        }
        Ok(Self {
            near_client,
            near_gateway,
        })
    }

    fn set_mtu(&self, mtu: usize) -> Result<()> {
        for router in [&self.near_client, &self.near_gateway] {
            router.ip(&format!("link set in mtu {mtu}"))?;
        }
        Ok(())
    }
}

/// The session's MTU, as occtl shows it.
fn shown_mtu(server: &Server) -> Result<usize> {
    let shown = server.occtl_text(&["show", "user", USER])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "MTU:");
    let mtu = words.nth(1).context("no MTU")?;
    mtu.parse().with_context(|| shown.clone())
}

/// Waits until the session's MTU fits a link closely. The client says something meanwhile.
fn wait_fitting(server: &Server, client: &Client, link: usize) -> Result<()> {
    let most = link - OVERHEAD;
    wait::until_true("the MTU of the narrow link", 2 * wait::LONG, || {
        let alive = traffic::is_answered(client.namespace(), LAN4);
        alive && shown_mtu(server).is_ok_and(|mtu| (most - PRECISION..=most).contains(&mtu))
    })
}

/// Counts the gateway's datagrams: large ones, and those with or without DF.
fn count_datagrams(bed: &Bed) -> Result<()> {
    bed.gateway().nft(&format!(
        "table ip oxc_count {{
            counter large {{ }}
            counter fixed {{ }}
            counter fragmentable {{ }}
            chain output {{ type filter hook output priority 0;
                udp sport {PORT} udp length > 1200 counter name large;
                udp sport {PORT} ip frag-off & 0x4000 != 0 counter name fixed;
                udp sport {PORT} ip frag-off & 0x4000 == 0 counter name fragmentable;
            }}
        }}"
    ))
}

/// Packets or bytes that a counter has seen. Datagrams of one length that leave together are one packet
/// at that place.
fn counted(bed: &Bed, counter: &str, what: &str) -> Result<u64> {
    let shown = bed
        .gateway()
        .must("nft", &["list", "counter", "ip", "oxc_count", counter])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != what);
    words.nth(1).context("no count")?.parse().context(shown)
}

/// Moves bytes to the client, and shows that most of them came in large records.
fn transfer_in_records(bed: &Bed, client: &Client, address: &str) -> Result<()> {
    let before = counted(bed, "large", "bytes")?;
    traffic::transfer(bed.lan(), client.namespace(), address, BYTES)?;
    let in_records = counted(bed, "large", "bytes")? - before;
    assert!(in_records >= (BYTES / 5 * 4) as u64, "{in_records} bytes");
    Ok(())
}

/// A client over DTLS, whose path has a link of `width` bytes: its MTU as occtl shows it, after
/// transfers both ways. IPv6 inside needs 1280 bytes and has its turn where they fit.
fn use_narrow_path(bed: &Bed, width: usize, discovery: bool) -> Result<usize> {
    let ipv6 = width - OVERHEAD >= 1280;
    // What the ends learned of the path before.
    for end in [bed.gateway(), bed.client(0)] {
        end.ip("route flush cache")?;
    }
    let mut config = Config::new(bed).set("try-mtu-discovery", &discovery.to_string());
    if !ipv6 {
        config = config.without("ipv6-network");
    }
    let server = Server::start(bed, &config)?;
    let client = Login::new().connect_dtls(bed)?;
    if discovery {
        wait_fitting(&server, &client, width)?;
    }
    traffic::transfer(client.namespace(), bed.lan(), LAN4, BYTES)?;
    transfer_in_records(bed, &client, &client.address4()?)?;
    if ipv6 {
        traffic::transfer(client.namespace(), bed.lan(), LAN6, BYTES)?;
        transfer_in_records(bed, &client, &client.address6()?)?;
    }
    shown_mtu(&server)
}

#[test]
fn with_discovery_records_have_df_and_fit_a_narrow_path() {
    scenario(|bed| {
        let routers = Routers::insert(bed)?;
        count_datagrams(bed)?;
        for width in [1400, 1300] {
            routers.set_mtu(width)?;
            let mtu = use_narrow_path(bed, width, true)?;
            assert!(mtu <= width - OVERHEAD, "{mtu}");
        }
        assert!(counted(bed, "fixed", "packets")? > 0);
        assert_eq!(counted(bed, "fragmentable", "packets")?, 0);
        Ok(())
    });
}

#[test]
fn without_discovery_records_are_fragmented_on_a_narrow_path() {
    scenario(|bed| {
        let routers = Routers::insert(bed)?;
        count_datagrams(bed)?;
        for width in [1400, 1300] {
            routers.set_mtu(width)?;
            assert_eq!(use_narrow_path(bed, width, false)?, 1500 - OVERHEAD);
        }
        assert!(counted(bed, "fragmentable", "packets")? > 0);
        assert_eq!(counted(bed, "fixed", "packets")?, 0);
        Ok(())
    });
}

#[test]
fn with_discovery_records_follow_a_path_that_gets_narrow() {
    scenario(|bed| {
        let routers = Routers::insert(bed)?;
        count_datagrams(bed)?;
        let config = Config::new(bed).set("try-mtu-discovery", "true");
        let server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_all_ways(bed, &client, BYTES)?;
        assert_eq!(shown_mtu(&server)?, 1500 - OVERHEAD);
        routers.set_mtu(1400)?;
        // Not from the client: it does not make its device's MTU smaller in a running session.
        transfer_in_records(bed, &client, &client.address4()?)?;
        wait_fitting(&server, &client, 1400)?;
        transfer_in_records(bed, &client, &client.address4()?)?;
        transfer_in_records(bed, &client, &client.address6()?)?;
        assert_eq!(client.count(DTLS_UP), 1, "{}", client.log());
        assert_eq!(counted(bed, "fragmentable", "packets")?, 0);
        Ok(())
    });
}

#[test]
fn with_discovery_a_path_that_loses_large_datagrams_silently_is_noticed() {
    scenario(|bed| {
        const WIDTH: usize = 1400;
        count_datagrams(bed)?;
        bed.client(0).nft(&format!(
            "table ip oxc_hole {{
                chain input {{ type filter hook input priority 0;
                    udp sport {PORT} meta length > {WIDTH} drop; }}
            }}"
        ))?;
        let mtu = use_narrow_path(bed, WIDTH, true)?;
        assert!(mtu <= WIDTH - OVERHEAD, "{mtu}");
        Ok(())
    });
}

/// What the former one found out is gone with it, so the kernel path must not go on with that either.
#[test]
fn another_dataplane_begins_with_what_was_negotiated() {
    scenario(|bed| {
        let routers = Routers::insert(bed)?;
        routers.set_mtu(1400)?;
        let config = Config::new(bed).set("try-mtu-discovery", "true");
        let server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        wait_fitting(&server, &client, 1400)?;
        routers.set_mtu(1500)?;
        bed.gateway().ip("route flush cache")?;
        server.kill_and_wait_replaced(Role::Dataplane)?;
        wait::until_true("the MTU that was negotiated", wait::LONG, || {
            shown_mtu(&server).is_ok_and(|mtu| mtu == 1500 - OVERHEAD)
        })
    });
}
