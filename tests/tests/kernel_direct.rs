//! `xdp-forward = direct`: past the host's stack.

use anyhow::{Result, ensure};
use ocserv_tests::bed::{LAN4, LAN6};
use ocserv_tests::{Bed, Config, Login, Server, scenario, traffic};

fn start(bed: &Bed) -> Result<Server> {
    bed.complete_checksums()?;
    // A veth takes what XDP sends only if its peer has NAPI.
    for end in [bed.lan(), bed.client(0)] {
        end.must("ethtool", &["-K", "eth0", "gro", "on"])?;
    }
    let config = Config::new(bed)
        .set("xdp-forward", "direct")
        .set("xdp-lan-interface", "lan0")
        .set("xdp-max-record", "1530");
    Server::start(bed, &config)
}

#[test]
fn packets_pass_the_stack_by() {
    scenario(|bed| {
        let server = start(bed)?;
        let client = Login::new().connect_dtls(bed)?;
        // Neighbours become known by the stack's own packets.
        traffic::ping_all_ways(bed, &client)?;
        bed.gateway().nft(
            "table inet guard { chain c { type filter hook forward priority 0; policy drop; }; }",
        )?;
        for lan in [LAN4, LAN6] {
            client
                .namespace()
                .must("ping", &["-n", "-q", "-c10", "-i0.02", "-W1", lan])?;
        }
        traffic::transfer_all_ways(bed, &client, 1_000_000)?;
        let text = server.occtl_text(&["show", "datapath"])?;
        for direction in ["Direct RX packets: ", "Direct TX packets: "] {
            let count = text
                .split(direction)
                .nth(1)
                .and_then(|rest| rest.lines().next());
            let count: u64 = count.unwrap_or_default().parse()?;
            ensure!(count > 500, "{text}");
        }
        Ok(())
    });
}
