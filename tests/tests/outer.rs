//! Outside the tunnel: address families, listening addresses, DTLS ciphers, kinds of clients.

use anyhow::ensure;
use ocserv_tests::bed::{GATEWAY4, GATEWAY6, LAN4, LAN6, PORT, USER};
use ocserv_tests::{
    Bed, Config, Login, Server, datapath, scenario, scenario_with_clients, traffic,
};

/// The row of `show users` for the one user.
fn row(server: &Server) -> anyhow::Result<String> {
    let users = server.occtl_text(&["show", "users"])?;
    let row = users
        .lines()
        .find(|line| line.contains(USER))
        .unwrap_or_default();
    Ok(row.to_owned())
}

#[test]
fn dtls_runs_over_ipv6_outside() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().to_address(GATEWAY6).connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 500_000)
    });
}

#[test]
fn clients_of_both_families_are_served_at_once() {
    scenario_with_clients(2, |bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let one = Login::new().connect_dtls(bed)?;
        let other = Login::new()
            .from_site(1)
            .to_address(GATEWAY6)
            .connect_dtls(bed)?;
        for client in [&one, &other] {
            traffic::ping_all_ways(bed, client)?;
        }
        Ok(())
    });
}

#[test]
fn listen_host_leaves_other_addresses_alone() {
    scenario(|bed| {
        let config = Config::new(bed).set("listen-host", GATEWAY4);
        let _server = Server::start(bed, &config)?;
        let reach = |address: &str| {
            let address = (address.parse::<std::net::IpAddr>().unwrap(), PORT);
            bed.client(0).run(|| {
                let wait = std::time::Duration::from_secs(5);
                std::net::TcpStream::connect_timeout(&address.into(), wait).is_ok()
            })
        };
        assert!(reach(GATEWAY4)?);
        assert!(!reach(GATEWAY6)?);
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

/// Becomes its arguments, with sockets as a service manager binds them by default: each for both families.
const SERVICE_MANAGER: &str = "use Socket qw(:all); $^F = 9; \
    my $any = pack_sockaddr_in6(4443, IN6ADDR_ANY); my ($tcp, $udp); \
    socket($tcp, AF_INET6, SOCK_STREAM, 0) and bind($tcp, $any) and listen($tcp, 100) or die $!; \
    socket($udp, AF_INET6, SOCK_DGRAM, 0) and bind($udp, $any) or die $!; \
    die 'not the first descriptors' if fileno($tcp) != 3 or fileno($udp) != 4; \
    @ENV{'LISTEN_PID', 'LISTEN_FDS'} = ($$, 2); exec @ARGV or die $!";

#[test]
fn sockets_that_are_handed_over_serve_both_families() {
    scenario_with_clients(2, |bed| {
        let wrapper = ["perl", "-e", SERVICE_MANAGER];
        let _server = Server::start_through(bed, &Config::new(bed), &wrapper)?;
        let one = Login::new().connect_dtls(bed)?;
        let other = Login::new()
            .from_site(1)
            .to_address(GATEWAY6)
            .connect_dtls(bed)?;
        for client in [&one, &other] {
            traffic::ping_all_ways(bed, client)?;
            traffic::transfer_all_ways(bed, client, 200_000)?;
        }
        Ok(())
    });
}

/// DTLS with the one cipher that `tls-priorities` leaves.
fn dtls_by(cipher: &str) {
    scenario(|bed| {
        let priorities = format!("\"NORMAL:-CIPHER-ALL:+{cipher}:-VERS-TLS1.3\"");
        let server = Server::start(bed, &Config::new(bed).set("tls-priorities", &priorities))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 200_000)?;
        let row = row(&server)?;
        assert!(row.contains(&format!("({cipher})")), "{row}");
        Ok(())
    });
}

#[test]
fn dtls_by_aes_128_gcm() {
    dtls_by("AES-128-GCM");
}

#[test]
fn dtls_by_aes_256_gcm() {
    dtls_by("AES-256-GCM");
}

#[test]
fn dtls_by_chacha20_poly1305() {
    dtls_by("CHACHA20-POLY1305");
}

#[test]
fn mobile_clients_have_timers_of_their_own() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed).set("dpd", "70").add("mobile-dpd", "700");
        let server = Server::start(bed, &config)?;
        let desk = Login::new().connect(bed)?;
        let phone = Login::new()
            .from_site(1)
            .argument("--os=android")
            .connect(bed)?;
        let shown = server.occtl_text(&["show", "user", USER])?;
        assert_eq!(shown.matches("DPD: 70 ").count(), 1, "{shown}");
        assert_eq!(shown.matches("DPD: 700 ").count(), 1, "{shown}");
        drop((desk, phone));
        Ok(())
    });
}

#[test]
fn no_udp_for_a_user_is_tls_only() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed).add("no-udp", "true"))?;
        let client = Login::new().connect(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let row = row(&server)?;
        assert!(row.contains("(no-dtls)"), "{row}");
        Ok(())
    });
}

/// Marks what the client sends by UDP, as a congested router would if the client had copied the TOS of
/// inner packets.
fn mark(bed: &Bed) -> anyhow::Result<()> {
    bed.client(0).nft(&format!(
        "table inet oxc_mark {{
            chain output {{ type filter hook output priority 0;
                udp dport {PORT} ip ecn set ce;
                udp dport {PORT} ip6 ecn set ce;
            }}
        }}"
    ))
}

/// Counts what reaches the lan marked, and what reaches it without.
fn count_marks(bed: &Bed) -> anyhow::Result<()> {
    bed.lan().nft(
        "table inet oxc_count {
            counter marked { }
            counter unmarked { }
            chain input { type filter hook input priority 0;
                icmp type echo-request ip ecn ce counter name marked accept;
                icmpv6 type echo-request ip6 ecn ce counter name marked accept;
                icmp type echo-request counter name unmarked;
                icmpv6 type echo-request counter name unmarked;
            }
        }",
    )
}

/// RFC 6040 §4.2: an outer mark goes on to inner packets that can carry it; others are dropped.
fn congestion_is_passed_on(xdp: &str, gateway: &str) {
    const PINGS: &str = "10";
    scenario(|bed| {
        let config = Config::new(bed)
            .set("xdp", xdp)
            .set("xdp-max-record", "1530");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().to_address(gateway).connect_dtls(bed)?;
        if xdp != "off" {
            datapath::wait_in_kernel(&server, &client)?;
        }
        mark(bed)?;
        count_marks(bed)?;
        let ping = |to, tos| {
            let words = ["-n", "-q", "-c", PINGS, "-i0.01", "-W1", "-Q", tos, to];
            client.namespace().output("ping", &words).map(drop)
        };
        let counted = |name| datapath::counted(bed.lan(), "inet oxc_count", name);
        for (number, to) in (1..).zip([LAN4, LAN6]) {
            for tos in ["2", "0"] {
                ping(to, tos)?;
                let found = (counted("marked")?, counted("unmarked")?);
                ensure!(found == (number * 10, 0), "{found:?} to {to} with {tos}");
            }
        }
        Ok(())
    });
}

#[test]
fn congestion_is_passed_on_in_user_space() {
    congestion_is_passed_on("off", GATEWAY4);
}

#[test]
fn congestion_is_passed_on_in_user_space_over_ipv6() {
    congestion_is_passed_on("off", GATEWAY6);
}

#[test]
fn congestion_is_passed_on_in_the_kernel() {
    congestion_is_passed_on("auto", GATEWAY4);
}
