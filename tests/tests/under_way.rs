//! Transfers that are under way while something fails or changes.

use nix::sys::signal::Signal;
use ocserv_tests::bed::PORT;
use ocserv_tests::client::CSTP_UP;
use ocserv_tests::{Client, Config, Login, Role, Server, process, scenario, traffic, wait};

fn assert_connected_once(client: &Client) {
    assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
}

#[test]
fn the_dataplane_dies_under_dtls_traffic() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_during(bed, &client, || {
            server.kill_and_wait_replaced(Role::Dataplane)?;
            server.kill_and_wait_replaced(Role::Dataplane)
        })?;
        assert_connected_once(&client);
        Ok(())
    });
}

#[test]
fn the_dataplane_dies_under_tls_traffic() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().argument("--no-dtls").connect(bed)?;
        traffic::transfer_during(bed, &client, || {
            server.kill_and_wait_replaced(Role::Dataplane)
        })?;
        assert_connected_once(&client);
        Ok(())
    });
}

#[test]
fn the_gates_die_under_traffic() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        traffic::transfer_during(bed, &client, || {
            server.kill_and_wait_replaced(Role::Gate)?;
            wait::until_true("the client's return", wait::LONG, || {
                client.count(CSTP_UP) >= 2
            })
        })?;
        assert_eq!(client.address4()?, address);
        Ok(())
    });
}

#[test]
fn secmod_dies_under_traffic() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_during(bed, &client, || server.kill_and_wait_replaced(Role::Secmod))?;
        assert_connected_once(&client);
        Ok(())
    });
}

#[test]
fn all_processes_but_the_first_die_under_traffic() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        traffic::transfer_during(bed, &client, || {
            for role in [Role::Secmod, Role::Gate, Role::Dataplane] {
                for pid in server.pids(role)? {
                    process::signal(pid, Signal::SIGKILL);
                }
            }
            wait::until_true("the client's return", wait::LONG, || {
                client.count(CSTP_UP) >= 2
            })
        })?;
        assert_eq!(client.address4()?, address);
        Ok(())
    });
}

#[test]
fn udp_is_blocked_under_traffic() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "2")
            .set("switch-to-tcp-timeout", "2");
        let _server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_during(bed, &client, || bed.block_udp())?;
        assert_connected_once(&client);
        Ok(())
    });
}

#[test]
fn datagrams_are_refused_on_the_gateway_under_traffic() {
    const REFUSED: &str = "datagrams to clients are not sent: Operation not permitted";
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed).set("xdp", "off"))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_during(bed, &client, || {
            bed.gateway().nft(&format!(
                "table inet oxc_refuse {{
                    chain output {{ type filter hook output priority 0; udp sport {PORT} drop; }}
                }}"
            ))?;
            server.wait_log(REFUSED)?;
            bed.gateway().nft("delete table inet oxc_refuse")
        })?;
        // A line of each thread at most, not of each datagram.
        let threads = std::thread::available_parallelism()?.get();
        assert!(server.log().matches(REFUSED).count() <= threads);
        assert_connected_once(&client);
        Ok(())
    });
}

/// Renews keys by `method` until the client has come `times` times, the first one included.
fn rekeys_under_traffic(version: &str, method: &str, times: usize) {
    const SPAN: std::time::Duration = std::time::Duration::from_secs(6);
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rekey-time", "2")
            .set("rekey-method", method)
            .set(
                "tls-priorities",
                &format!("\"NORMAL:-VERS-ALL:+{version}:+VERS-DTLS1.2\""),
            );
        let _server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::transfer_during(bed, &client, || {
            if times > 1 {
                return wait::until_true("new tunnels", wait::LONG, || {
                    client.count(CSTP_UP) >= times
                });
            }
            wait::never("another tunnel", SPAN, || client.count(CSTP_UP) > 1)
        })
    });
}

#[test]
fn keys_are_renewed_in_place_under_traffic() {
    rekeys_under_traffic("VERS-TLS1.3", "ssl", 1);
}

#[test]
fn new_tunnels_replace_old_ones_under_traffic() {
    rekeys_under_traffic("VERS-TLS1.3", "new-tunnel", 3);
}
