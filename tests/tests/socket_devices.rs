//! `xdp-sockets`: which queues have sockets, as devices and dataplanes come and go.

use anyhow::{Result, ensure};
use ocserv_tests::datapath::{self, Datapath};
use ocserv_tests::{Bed, Config, Login, Role, Server, scenario, traffic, wait};

fn config(bed: &Bed) -> Config {
    Config::new(bed)
        .set("xdp-forward", "direct")
        .set("xdp-lan-interface", "lan0")
        .set("xdp-sockets", "true")
}

fn wait_sockets(server: &Server, wanted: u64) -> Result<()> {
    wait::until_true("the sockets of all devices", wait::LONG, || {
        let sockets = Datapath::of(server).and_then(|now| now.number("Sockets"));
        sockets.is_ok_and(|count| count == wanted)
    })
}

/// Packets that were handed to sockets, from and to clients.
fn handed(server: &Server) -> Result<[u64; 2]> {
    let now = Datapath::of(server)?;
    Ok([
        now.number("Socket RX packets")?,
        now.number("Socket TX packets")?,
    ])
}

#[test]
fn another_dataplane_gets_sockets_of_its_own() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        wait_sockets(&server, 2)?;
        let client = Login::new().connect_dtls(bed)?;
        for _ in 0..2 {
            let before = handed(&server)?;
            datapath::pings(&client)?;
            let after = handed(&server)?;
            ensure!(after[0] >= before[0] + 40 && after[1] >= before[1] + 40);
            server.kill_and_wait_replaced(Role::Dataplane)?;
            wait_sockets(&server, 2)?;
        }
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn each_queue_has_a_socket() {
    scenario(|bed| {
        let queues = ["-L", "wan0", "rx", "2", "tx", "2"];
        bed.gateway().must("ethtool", &queues)?;
        let server = datapath::start(bed, &config(bed).set("xdp", "generic"))?;
        wait_sockets(&server, 3)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::pings(&client)
    });
}

#[test]
fn each_device_has_the_best_mode_that_it_can() {
    scenario(|bed| {
        bed.bridge_lan()?;
        let config = config(bed)
            .set("xdp", "auto")
            .set("xdp-lan-interface", "bridge0");
        let server = datapath::start(bed, &config)?;
        wait_sockets(&server, 2)?;
        let client = Login::new().connect_dtls(bed)?;
        // Neighbours become known by the stack's own packets.
        traffic::ping_all_ways(bed, &client)?;
        let before = handed(&server)?;
        datapath::pings(&client)?;
        let after = handed(&server)?;
        ensure!(after[0] >= before[0] + 40 && after[1] >= before[1] + 40);
        let now = Datapath::of(&server)?;
        let modes = ["wan0", "bridge0"].map(|device| now.device(device));
        let modes = modes.each_ref().map(Option::as_deref);
        ensure!(modes == ["wan native", "lan generic"].map(Some), "{now:?}");
        Ok(())
    });
}

#[test]
fn devices_that_go_or_have_long_packets_have_none() {
    scenario(|bed| {
        let server = datapath::start(bed, &config(bed))?;
        wait_sockets(&server, 2)?;
        let client = Login::new().connect_dtls(bed)?;
        let gateway = bed.gateway();
        gateway.ip("link set lan0 down")?;
        wait_sockets(&server, 1)?;
        gateway.ip("link set lan0 up")?;
        gateway.ip("addr add fd20::1/64 dev lan0 nodad")?;
        wait_sockets(&server, 2)?;
        gateway.ip("link set lan0 mtu 1501")?;
        wait_sockets(&server, 1)?;
        server.wait_log("device lan0: an MTU of 1501 is more than 1500")?;
        traffic::ping_all_ways(bed, &client)?;
        gateway.ip("link set lan0 mtu 1400")?;
        wait_sockets(&server, 2)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn without_memory_to_lock_packets_go_by_the_stack() {
    scenario(|bed| {
        // 64 KiB, and no right to more.
        let wrapper = [
            "prlimit",
            "--memlock=65536:65536",
            "setpriv",
            "--bounding-set=-ipc_lock,-sys_resource",
        ];
        let server = Server::start_through(bed, &config(bed), &wrapper)?;
        server.wait_log("wan0: queue 0: the limit of locked memory (RLIMIT_MEMLOCK) is too low")?;
        server.wait_log("lan0: queue 0: the limit of locked memory (RLIMIT_MEMLOCK) is too low")?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        ensure!(handed(&server)? == [0, 0], "packets came by no socket");
        Ok(())
    });
}
