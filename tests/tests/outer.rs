//! Outside the tunnel: address families, listening addresses, DTLS ciphers, kinds of clients.

use ocserv_tests::bed::{GATEWAY4, GATEWAY6, PORT, USER};
use ocserv_tests::{Config, Login, Server, scenario, scenario_with_clients, traffic};

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
