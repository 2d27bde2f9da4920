//! Networks that change or fail, and timers.

use anyhow::Result;
use nix::sys::signal::Signal;
use ocserv_tests::bed::{GATEWAY4, LAN4, PORT, Site};
use ocserv_tests::client::{CSTP_UP, DTLS_UP};
use ocserv_tests::{Bed, Client, Config, Login, Server, scenario, tls, traffic, wait};

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

fn assert_reconnected(bed: &Bed, client: &mut Client, address: &str) -> Result<()> {
    client.wait_log_times(CSTP_UP, 2)?;
    client.wait_log_times(DTLS_UP, 2)?;
    traffic::ping_all_ways(bed, client)?;
    assert_eq!(client.address4()?, address);
    Ok(())
}

#[test]
fn a_client_reconnects_with_its_cookie_and_keeps_its_address() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        client.signal(Signal::SIGUSR2);
        assert_reconnected(bed, &mut client, &address)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        let users = server.occtl_text(&["show", "users"])?;
        assert_eq!(users.matches(&address).count(), 1, "{users}");
        Ok(())
    });
}

#[test]
fn max_same_clients_does_not_count_the_session_that_reconnects() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed).set("max-same-clients", "1"))?;
        let mut client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        client.signal(Signal::SIGUSR2);
        assert_reconnected(bed, &mut client, &address)
    });
}

#[test]
fn a_client_roams_to_a_new_address() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        move_client(bed)?;
        client.signal(Signal::SIGUSR2);
        assert_reconnected(bed, &mut client, &address)?;
        let users = server.occtl_text(&["show", "users"])?;
        assert!(users.contains(&Site::new(0).other_address4()), "{users}");
        Ok(())
    });
}

#[test]
fn dtls_goes_on_when_the_clients_udp_port_changes() {
    scenario(|bed| {
        const OWN: u16 = 40001;
        const MAPPED: u16 = 50001;
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new()
            .argument(&format!("--dtls-local-port={OWN}"))
            .connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        // What a NAT router does that forgot the flow.
        client.namespace().nft(&format!(
            "table inet oxc_nat {{
                chain output {{ type filter hook output priority 0;
                    udp sport {OWN} udp dport {PORT} udp sport set {MAPPED}; }}
                chain input {{ type filter hook prerouting priority -300;
                    udp sport {PORT} udp dport {MAPPED} udp dport set {OWN}; }}
            }}"
        ))?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn without_udp_the_tunnel_works_over_tcp() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        bed.block_udp()?;
        let client = Login::new().connect(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        assert_eq!(client.count(DTLS_UP), 0, "{}", client.log());
        Ok(())
    });
}

#[test]
fn when_udp_fails_the_tunnel_falls_back_to_tcp_and_returns() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "2")
            .set("switch-to-tcp-timeout", "2");
        let _server = Server::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        bed.block_udp()?;
        wait::until_true("packets over TCP", wait::LONG, || {
            traffic::is_answered(client.namespace(), LAN4)
        })?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        bed.unblock_udp()?;
        // The client itself would try again a minute after the failure.
        client.signal(Signal::SIGUSR2);
        client.wait_log_times(DTLS_UP, 2)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn without_a_udp_port_there_is_no_dtls() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed).without("udp-port"))?;
        let client = Login::new().connect(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        assert!(!client.log().contains("X-DTLS-Port"), "{}", client.log());
        Ok(())
    });
}

#[test]
fn an_idle_session_is_ended() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("idle-timeout", "2")
            .without("ipv6-network");
        let server = Server::start(bed, &config)?;
        let mut client = Login::new().connect(bed)?;
        client.wait_exit(2 * wait::LONG)?;
        server.wait_log("idle timeout")
    });
}

#[test]
fn the_session_timeout_ends_session_and_cookie_despite_reconnects() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed).set("session-timeout", "6"))?;
        let cookie = Login::new().cookie(bed)?;
        let mut client = Login::with_cookie(&cookie).connect(bed)?;
        client.signal(Signal::SIGUSR2);
        client.wait_log_times(CSTP_UP, 2)?;
        client.wait_exit(2 * wait::LONG)?;
        server.wait_log("session timeout")?;
        let answer = tls::request(bed, &tls::connect_request(&cookie))?;
        assert!(answer.status_line().contains("401"), "{}", answer.text);
        Ok(())
    });
}

#[test]
fn rekey_by_new_tunnel_keeps_the_address() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rekey-time", "30")
            .set("rekey-method", "new-tunnel");
        let _server = Server::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        // The announced time is the configured one give or take half a minute.
        for _ in 0..3 {
            if client.wait_log("rekey due").is_ok() {
                break;
            }
        }
        assert_reconnected(bed, &mut client, &address)
    });
}

/// Pings for several rekey intervals; the client must not have to reconnect.
fn survives_rekeys(version: &str) {
    const REKEY_SECONDS: &str = "3";
    const SPAN: std::time::Duration = std::time::Duration::from_secs(10);
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rekey-time", REKEY_SECONDS)
            .set("rekey-method", "ssl")
            .set(
                "tls-priorities",
                &format!("\"NORMAL:-VERS-ALL:+{version}:+VERS-DTLS1.2\""),
            );
        let _server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        wait::never("a lost echo twice in a row", SPAN, || {
            !traffic::is_answered(client.namespace(), LAN4)
                && !traffic::is_answered(client.namespace(), LAN4)
                && !traffic::is_answered(client.namespace(), LAN4)
        })?;
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn a_rekey_in_place_renews_the_dtls_channel_too() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rekey-time", "6")
            .set("rekey-method", "ssl");
        let server = Server::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        for channel in 2..=3 {
            client.wait_log_times(DTLS_UP, channel)?;
            traffic::ping_all_ways(bed, &client)?;
        }
        // The third channel has the record of the first.
        server.wait_log("keys of a DTLS channel forgotten channel=0 generation=1")?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn tunnels_survive_rekeys_with_tls_1_2() {
    survives_rekeys("VERS-TLS1.2");
}

#[test]
fn tunnels_survive_rekeys_with_tls_1_3() {
    survives_rekeys("VERS-TLS1.3");
}
