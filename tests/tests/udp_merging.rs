//! UDP flows that the LAN's device merges (`ethtool -K lan0 rx-udp-gro-forwarding on`): they reach the
//! tun device as super-packets.

use std::fs;

use anyhow::{Context, Result, ensure};
use ocserv_tests::datagrams::{self, Arrived};
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{Bed, Client, Config, Login, scenario};

const GROUPS: usize = 20;

/// Has the gateway merge what comes from the LAN.
fn merge(bed: &Bed) -> Result<()> {
    let features = ["-K", "lan0", "gro", "on", "rx-udp-gro-forwarding", "on"];
    bed.gateway().must("ethtool", &features).map(drop)
}

/// What was read from the tun device until now; a super-packet is one.
fn reads(bed: &Bed) -> Result<u64> {
    const SENT_PACKETS: usize = 9;
    let list = || fs::read_to_string("/proc/thread-self/net/dev");
    let devices = bed.gateway().run(list)??;
    let line = devices.split_once("vpns0:").context("no tun device")?.1;
    let number = line.split_whitespace().nth(SENT_PACKETS);
    Ok(number.context("no number")?.parse()?)
}

/// Sends groups of messages to the client, in both address families. All must arrive.
fn pass(bed: &Bed, client: &Client, messages: &[&[usize]]) -> Result<Vec<Arrived>> {
    let sent = GROUPS * messages.iter().map(|sizes| sizes.len()).sum::<usize>();
    let addresses = [client.address4()?, client.address6()?].into_iter();
    addresses
        .map(|address| {
            let (from, to) = (bed.lan(), client.namespace());
            let arrived = datagrams::pass_together(from, to, &address, GROUPS, messages)?;
            ensure!(
                (arrived.count, arrived.repeated) == (sent, 0),
                "{arrived:?} of {sent} to {address}"
            );
            Ok(arrived)
        })
        .collect()
}

#[test]
fn arrive_as_they_were_sent() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed).set("xdp", "off"))?;
        let client = Login::new().connect_dtls(bed)?;
        merge(bed)?;
        for messages in [
            [&[36; 32][..], &[36]],
            [&[484; 32][..], &[10]],
            [&[[1372; 31].as_slice(), &[77]].concat()[..], &[1372]],
        ] {
            let (before, read) = (packets(&server)?.user_tx, reads(bed)?);
            let arrived = pass(bed, &client, &messages)?;
            ensure!(arrived.iter().all(|arrived| arrived.overtaken == 0));
            let (passed, read) = (packets(&server)?.user_tx - before, reads(bed)? - read);
            ensure!(passed >= 2 * 33 * GROUPS as u64, "{passed}");
            ensure!(read <= passed / 8, "{read} reads of {passed}");
        }
        Ok(())
    });
}

#[test]
fn go_through_user_space_and_nothing_overtakes_them() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        merge(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let (before, read) = (Datapath::of(&server)?, reads(bed)?);
        for arrived in pass(bed, &client, &[&[1000; 24], &[100], &[90], &[80]])? {
            // A dataplane that gets no processor time is overtaken; without the rule it is in all groups.
            ensure!(arrived.overtaken < GROUPS / 5, "{arrived:?}");
        }
        let (after, read) = (Datapath::of(&server)?, reads(bed)? - read);
        let left = after.left("bulk")? - before.left("bulk")?;
        // Of each group a super-packet and what follows.
        ensure!(left >= 2 * 4 * GROUPS as u64, "{after:?}");
        ensure!(read <= 2 * 8 * GROUPS as u64, "{read} reads");
        // Nothing merged is on its way any more.
        datapath::wait_in_kernel(&server, &client)
    });
}

#[test]
fn are_seen_to_merge_where_programs_come_before_the_stack() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("xdp-forward", "direct")
            .set("xdp-lan-interface", "lan0");
        // A veth takes what XDP sends only if its peer has NAPI.
        for end in bed.clients().iter().chain([bed.lan()]) {
            end.must("ethtool", &["-K", "eth0", "gro", "on"])?;
        }
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        merge(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let (before, read) = (packets(&server)?, reads(bed)?);
        // So long that they are user space's by any measure, on a slow machine too.
        for arrived in pass(bed, &client, &[&[1000; 32], &[100], &[90]])? {
            ensure!(arrived.overtaken < GROUPS / 5, "{arrived:?}");
        }
        let (after, read) = (packets(&server)?, reads(bed)? - read);
        let kernel = after.kernel_tx - before.kernel_tx;
        let user = after.user_tx - before.user_tx;
        ensure!(
            user > 3 * kernel,
            "{user} in user space, {kernel} in the kernel"
        );
        ensure!(read <= user / 8, "{read} reads of {user}");
        datapath::wait_in_kernel(&server, &client)
    });
}
