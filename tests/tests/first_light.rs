//! The first working whole: login, DTLS, traffic, `occtl show users`.

use ocserv_tests::bed::USER;
use ocserv_tests::{Config, Login, Server, scenario, traffic};

#[test]
fn a_stock_client_logs_in_and_its_packets_pass_over_dtls() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 2_000_000)?;

        let users = server.occtl_text(&["show", "users"])?;
        let row = users
            .lines()
            .find(|line| line.contains(USER))
            .unwrap_or_default();
        let columns: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            columns.get(4),
            Some(&client.address4()?.as_str()),
            "{users}"
        );
        assert_eq!(columns.last(), Some(&"connected"), "{users}");
        // Ours prefers the cipher that the kernel path takes.
        let ciphers = ["(AES-256-GCM)", "(CHACHA20-POLY1305)"];
        assert!(
            ciphers.iter().any(|cipher| row.contains(cipher)),
            "no DTLS cipher: {users}"
        );

        client.log_out()?;
        server.wait_log("user disconnected (reason: user disconnected")?;
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn without_dtls_packets_pass_over_tls() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().argument("--no-dtls").connect(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 2_000_000)?;
        let users = server.occtl_text(&["show", "users"])?;
        assert!(users.contains("(no-dtls)"), "{users}");
        Ok(())
    });
}
