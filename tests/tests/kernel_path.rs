//! The kernel path with stock clients: which way packets take, and that all else stays as it is.

use anyhow::{Context, Result, ensure};
use ocserv_tests::bed::{GATEWAY6, LAN4, LAN6};
use ocserv_tests::{Bed, Config, Login, Server, scenario, traffic};

/// One number of `occtl -j show datapath`.
fn figure(server: &Server, name: &str) -> Result<u64> {
    let text = server.occtl_text(&["-j", "show", "datapath"])?;
    let start = text
        .find(&format!("\"{name}\":"))
        .with_context(|| format!("no {name} in {text}"))?;
    let rest = &text[start + name.len() + 3..];
    let digits: String = rest
        .trim_start_matches([' ', '"'])
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().with_context(|| format!("{name} in {text}"))
}

/// Packets by kernel and by user space, from and to clients.
fn packets(server: &Server) -> Result<[u64; 4]> {
    let names = [
        "Kernel RX packets",
        "Kernel TX packets",
        "User RX packets",
        "User TX packets",
    ];
    let mut counts = [0; 4];
    for (count, name) in counts.iter_mut().zip(names) {
        *count = figure(server, name)?;
    }
    Ok(counts)
}

/// A bed whose packets look as those of network cards do.
fn start(bed: &Bed, config: &Config) -> Result<Server> {
    bed.complete_checksums()?;
    Server::start(bed, config)
}

#[test]
fn pings_pass_in_the_kernel_alone() {
    scenario(|bed| {
        let server = start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let before = packets(&server)?;
        for lan in [LAN4, LAN6] {
            client
                .namespace()
                .must("ping", &["-n", "-q", "-c20", "-i0.02", "-W1", lan])?;
        }
        let after = packets(&server)?;
        println!("{}", server.occtl_text(&["show", "datapath"])?);
        ensure!(after[0] - before[0] >= 40, "{before:?} {after:?}");
        ensure!(after[1] - before[1] >= 40, "{before:?} {after:?}");
        ensure!(after[2..] == before[2..], "{before:?} {after:?}");
        Ok(())
    });
}

#[test]
fn transfers_pass_over_ipv6_outside() {
    scenario(|bed| {
        let server = start(bed, &Config::new(bed).set("xdp-max-record", "1530"))?;
        let client = Login::new().to_address(GATEWAY6).connect_dtls(bed)?;
        traffic::transfer_all_ways(bed, &client, 2_000_000)?;
        let [rx, tx, ..] = packets(&server)?;
        println!("{}", server.occtl_text(&["show", "datapath"])?);
        ensure!(rx > 1000 && tx > 1000, "{rx} {tx}");
        Ok(())
    });
}
