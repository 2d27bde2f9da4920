//! What an administrator may do to the tun device of a running server.

use anyhow::ensure;
use ocserv_tests::bed::{LAN4, USER};
use ocserv_tests::client::CSTP_UP;
use ocserv_tests::{Config, Login, Role, Server, datapath, scenario, traffic, wait};

const DEVICE: &str = "vpns0";
/// What the dataplane says of a device that refuses packets.
const REFUSES: &str = "the tun device takes no packets";

/// Flows that stand still while the device is down, and go on when it is up again.
fn switched_off_and_on(xdp: &str) {
    scenario(|bed| {
        bed.write_file(&format!("users/{USER}"), "iroute = 10.40.0.0/24\n")?;
        let users = bed.directory().join("users").display().to_string();
        let config = Config::new(bed)
            .set("xdp", xdp)
            .set("config-per-user", &users);
        let server = datapath::start(bed, &config)?;
        let dataplane = server.wait_pids(Role::Dataplane)?;
        let client = Login::new().connect_dtls(bed)?;
        client.namespace().ip("address add 10.40.0.1/32 dev lo")?;
        traffic::ping(bed.lan(), "10.40.0.1")?;
        traffic::transfer_during(bed, &client, || {
            bed.gateway().ip(&format!("link set {DEVICE} down"))?;
            server.wait_log(REFUSES)?;
            bed.gateway().ip(&format!("link set {DEVICE} up"))?;
            Ok(())
        })?;
        traffic::ping_all_ways(bed, &client)?;
        traffic::ping(bed.lan(), "10.40.0.1")?;
        // A line of each thread at most, not of each packet.
        let threads = std::thread::available_parallelism()?.get();
        let lines = server.log().matches(REFUSES).count();
        ensure!(lines <= threads, "{}", server.log());
        ensure!(server.pids(Role::Dataplane)? == dataplane);
        ensure!(client.count(CSTP_UP) == 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn is_switched_off_and_on_under_traffic_in_user_space() {
    switched_off_and_on("off");
}

#[test]
fn is_switched_off_and_on_under_traffic_with_the_kernel_path() {
    switched_off_and_on("auto");
}

#[test]
fn that_is_deleted_ends_the_server_in_order() {
    scenario(|bed| {
        let disconnect =
            bed.write_script("end", &format!("touch {}/ended", bed.directory().display()))?;
        let config = Config::new(bed).set("disconnect-script", &disconnect.display().to_string());
        let mut server = Server::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        bed.gateway().ip(&format!("link delete {DEVICE}"))?;
        wait::until_true("the server's end", wait::LONG, || !server.is_running())?;
        server.wait_log("the tun device is gone")?;
        ensure!(bed.directory().join("ended").exists());
        let left = server.leftovers()?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(
            server.log().matches("it is replaced").count() <= 2,
            "{}",
            server.log()
        );
        client.wait_exit(wait::LONG)?;
        Ok(())
    });
}

#[test]
fn that_is_off_gets_nothing_from_the_kernel_path_that_would_not_be_counted() {
    scenario(|bed| {
        let config = Config::new(bed).set("xdp-max-record", "1530");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.gateway().ip(&format!("link set {DEVICE} down"))?;
        let ping = || {
            let words = ["-n", "-q", "-c10", "-i0.01", "-W1", LAN4];
            client.namespace().output("ping", &words).map(drop)
        };
        wait::until_true("user space's refusal", wait::LONG, || {
            ping().is_ok() && server.log().contains(REFUSES)
        })?;
        let before = datapath::packets(&server)?.kernel_rx;
        ping()?;
        let after = datapath::packets(&server)?.kernel_rx;
        ensure!(after == before, "{before} to {after}");
        bed.gateway().ip(&format!("link set {DEVICE} up"))?;
        datapath::wait_in_kernel(&server, &client)
    });
}
