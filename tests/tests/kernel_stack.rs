//! Packets of the kernel path are the host's like any others: its firewall, NAT and filters see them.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use ocserv_tests::bed::{LAN4, LAN6};
use ocserv_tests::datapath::{self, Datapath, counted, packets};
use ocserv_tests::{Bed, Config, Login, scenario, traffic, wait};

/// The tun device of the gateway.
const TUN: &str = "vpns0";
/// The gateway's addresses towards the lan.
const INNER4: &str = "10.20.0.1";
const INNER6: &str = "fd20::1";

/// Echoes within the gateway's `forward` hook, counted by direction, and by what conntrack says.
fn count_forwarded(bed: &Bed) -> Result<()> {
    bed.gateway().nft(&format!(
        "table inet oxc_count {{
            counter up {{ }}
            counter down {{ }}
            counter new {{ }}
            counter established {{ }}
            chain forward {{ type filter hook forward priority 0;
                iif {TUN} counter name up
                oif {TUN} counter name down
                iif {TUN} ct state new counter name new
                ct state established counter name established
            }}
        }}"
    ))
}

#[test]
fn the_firewall_sees_the_packets_and_conntrack_their_connections() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        count_forwarded(bed)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let of = |counter| counted(bed.gateway(), "inet oxc_count", counter);
        let counts = || Ok::<_, anyhow::Error>([of("up")?, of("down")?, of("established")?]);
        let before = counts()?;
        let added = datapath::packets_of_pings(&server, &client)?;
        ensure!(added.user_rx + added.user_tx == 0, "{added:?}");
        let after = counts()?;
        ensure!(after[0] - before[0] >= 40, "{before:?} {after:?}");
        ensure!(after[1] - before[1] >= 40, "{before:?} {after:?}");
        // All but the first request of each family, and all answers.
        ensure!(after[2] - before[2] >= 78, "{before:?} {after:?}");
        ensure!(of("new")? >= 2);
        Ok(())
    });
}

#[test]
fn a_drop_rule_is_effective() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.gateway().nft(&format!(
            "table inet oxc_drop {{
                counter dropped {{ }}
                chain forward {{ type filter hook forward priority 0;
                    iif {TUN} counter name dropped drop
                }}
            }}"
        ))?;
        let before = packets(&server)?;
        for (own, lan) in [(client.address4()?, LAN4), (client.address6()?, LAN6)] {
            let arrives = traffic::datagram_arrives(&client, bed, &own, lan)?;
            ensure!(!arrives, "a datagram to {lan} passed");
        }
        let after = packets(&server)?;
        ensure!(after.kernel_rx - before.kernel_rx >= 20, "{after:?}");
        ensure!(after.user_rx == before.user_rx, "{after:?}");
        ensure!(counted(bed.gateway(), "inet oxc_drop", "dropped")? >= 20);
        bed.gateway().nft("delete table inet oxc_drop")?;
        datapath::wait_in_kernel(&server, &client)
    });
}

#[test]
fn masquerading_is_effective() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        bed.gateway().nft(
            "table inet oxc_nat {
                chain postrouting { type nat hook postrouting priority 100;
                    oif lan0 masquerade
                }
            }",
        )?;
        bed.lan().nft(&format!(
            "table inet oxc_seen {{
                counter masked {{ }}
                counter bare {{ }}
                chain input {{ type filter hook input priority 0;
                    ip protocol icmp ip saddr {INNER4} counter name masked
                    icmpv6 type echo-request ip6 saddr {INNER6} counter name masked
                    ip saddr 10.30.0.0/24 counter name bare
                    ip6 saddr fd30::/64 counter name bare
                }}
            }}"
        ))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let seen = |counter| counted(bed.lan(), "inet oxc_seen", counter);
        let before = seen("masked")?;
        let added = datapath::packets_of_pings(&server, &client)?;
        ensure!(added.user_rx + added.user_tx == 0, "{added:?}");
        ensure!(seen("masked")? - before >= 40);
        ensure!(seen("bare")? == 0);
        traffic::transfer(client.namespace(), bed.lan(), LAN4, 500_000)?;
        traffic::transfer(client.namespace(), bed.lan(), LAN6, 500_000)
    });
}

#[test]
fn the_strict_reverse_path_filter_lets_them_pass() {
    scenario(|bed| {
        bed.gateway().sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)
    });
}

#[test]
fn packet_sockets_and_ingress_rules_see_them_on_the_tun_device() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.gateway().nft(&format!(
            "table netdev oxc_ingress {{
                counter seen {{ }}
                chain ingress {{ type filter hook ingress device {TUN} priority 0;
                    counter name seen
                }}
            }}"
        ))?;
        let index = bed.gateway().run(|| nix::net::if_::if_nametoindex(TUN))??;
        let tap = bed.gateway().run(packet_socket)??;
        let added = datapath::packets_of_pings(&server, &client)?;
        ensure!(added.user_rx == 0, "{added:?}");
        ensure!(counted(bed.gateway(), "netdev oxc_ingress", "seen")? >= 40);
        let mut seen = 0;
        let mut buffer = [0; 2048];
        while let Ok((length, Some(from))) = recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut buffer) {
            let is_inbound = from.ifindex() == index as usize && from.pkttype() == HOST;
            let is_own = buffer[..length].first().map(|first| first >> 4) == Some(4);
            seen += u32::from(is_inbound && is_own);
        }
        ensure!(seen >= 20, "{seen}");
        Ok(())
    });
}

/// `PACKET_HOST`: received, and for this host.
const HOST: u8 = 0;

/// A socket that sees what all devices receive and send.
fn packet_socket() -> Result<std::os::fd::OwnedFd> {
    let tap = socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )?;
    setsockopt(
        &tap,
        sockopt::ReceiveTimeout,
        &TimeVal::from(libc::timeval {
            tv_sec: 0,
            tv_usec: 200_000,
        }),
    )?;
    Ok(tap)
}

#[test]
fn forwarding_can_be_switched_off_in_the_host() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.gateway().sysctl("net/ipv4/ip_forward", "0")?;
        let own = client.address4()?;
        ensure!(!traffic::datagram_arrives(&client, bed, &own, LAN4)?);
        bed.gateway().sysctl("net/ipv4/ip_forward", "1")?;
        wait::until_true("an echo", wait::SHORT, || {
            traffic::is_answered(client.namespace(), LAN4)
        })?;
        ensure!(Datapath::of(&server)?.is_on());
        Ok(())
    });
}
