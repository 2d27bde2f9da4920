//! `xdp-forward = direct`: past the host's stack, both ways.

use anyhow::Result;
use ocserv_common::kernel::Counted;
use ocserv_daemon::kernel_path::Options;

use crate::bed::{Bed, FLOW4, FLOW6, PASS, Ran, XDP_REDIRECT, client_channel, now_ms};
use crate::net::{HOST_MAC, LAN_MAC, alone, ifindex, ip};
use crate::open::{is_delivered, is_left};
use crate::packets::{self, Client, bare, checksum, ethernet, inner, pseudo_header};
use crate::seal;

/// The device that frames of the test harness come by: loopback.
pub const INGRESS: u32 = 1;

/// A session with direct forwarding.
pub fn bed(flow: (&str, &str)) -> Result<Bed> {
    bed_with(flow, |_| {})
}

/// The same with other options.
pub fn bed_with(flow: (&str, &str), change: impl FnOnce(&mut Options)) -> Result<Bed> {
    let tun_ifindex = ifindex("tun0")?;
    let mut bed = Bed::with(|options| {
        options.direct = true;
        options.tun_ifindex = tun_ifindex;
        change(options);
    })?;
    bed.ifindex = ifindex("wan")?;
    bed.kernel.allow_direct(ifindex("wan")?)?;
    bed.kernel.allow_direct(ifindex("lan")?)?;
    bed.kernel.set_mac(ifindex("lan")?, LAN_MAC)?;
    bed.kernel.set_mac(INGRESS, LAN_MAC)?;
    bed.install(0, 1, flow)?;
    bed.hear(0);
    Ok(bed)
}

/// The packet after one hop. A checksum that was wrong stays wrong (RFC 1624).
pub fn one_hop(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        let inverted = [packet[8], packet[9], packet[10], packet[11]].map(|byte| !byte);
        packet[8] -= 1;
        let sum = checksum(&[&inverted[..], &packet[8..10]].concat());
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

/// A frame of the LAN for the gateway.
pub fn lan_frame(packet: &[u8]) -> Vec<u8> {
    let mut bytes = ethernet(packet);
    bytes[..6].copy_from_slice(&LAN_MAC);
    bytes
}

/// The same with a used-up TTL or hop limit.
pub fn at_its_last_hop(mut packet: Vec<u8>, left: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] = left;
        return packet;
    }
    packet[8] = left;
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A packet with a router alert, which each router looks at.
pub fn with_options(from: &str, to: &str) -> Vec<u8> {
    let mut packet = bare(from, to, 60);
    packet[0] = 0x46;
    packet[20..24].copy_from_slice(&[0x94, 4, 0, 0]);
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..24]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The same in IPv6.
pub fn with_hop_by_hop(from: &str, to: &str) -> Vec<u8> {
    let mut packet = bare(from, to, 80);
    packet[6] = 0;
    packet[40..48].copy_from_slice(&[58, 0, 5, 2, 0, 0, 1, 0]);
    packet
}

#[test]
fn inner_packets_go_out_by_the_lan_device() {
    alone(|| {
        for flow in [FLOW4, FLOW6] {
            let mut bed = bed(flow)?;
            let mut client = Client::new(1);
            for len in (40..=1500).step_by(73) {
                for packet in [
                    bare("10.9.0.5", "10.20.0.2", len),
                    bare("fd00::5", "fd00:20::2", len),
                ] {
                    let ran = bed.xdp("xdp_rx", &client.frame(flow, &packet))?;
                    assert_eq!(ran.verdict, XDP_REDIRECT, "{len}");
                    assert_eq!(ran.packet[..12], [HOST_MAC, LAN_MAC].concat());
                    assert_eq!(ran.packet[12..14], ethernet(&packet)[12..14]);
                    assert_eq!(ran.packet[14..], one_hop(&packet));
                }
            }
            assert_eq!(bed.count(Counted::RxDirect), bed.count(Counted::RxPackets));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn inner_packets_without_a_direct_way_go_to_the_stack() {
    alone(|| {
        let mut bed = bed(FLOW4)?;
        ip("link set lan mtu 1280")?;
        let mut client = Client::new(1);
        let packets = [
            ("no neighbour", inner("10.9.0.5", "10.20.0.3", 60)),
            ("no neighbour", inner("fd00::5", "fd00:20::3", 60)),
            ("options", with_options("10.9.0.5", "10.20.0.2")),
            ("hop-by-hop", with_hop_by_hop("fd00::5", "fd00:20::2")),
            ("no route", inner("10.9.0.5", "203.0.113.9", 60)),
            ("local", inner("10.9.0.5", "10.20.0.1", 60)),
            ("local", inner("fd00::5", "fd00:20::1", 60)),
            ("another client", inner("10.9.0.5", "10.9.0.6", 60)),
            ("multicast", inner("10.9.0.5", "224.0.0.1", 60)),
            ("broadcast", inner("10.9.0.5", "10.20.255.255", 60)),
            ("too big", inner("10.9.0.5", "10.20.0.2", 1281)),
            ("too big", inner("fd00::5", "fd00:20::2", 1281)),
            (
                "last hop",
                at_its_last_hop(inner("10.9.0.5", "10.20.0.2", 60), 1),
            ),
            (
                "last hop",
                at_its_last_hop(inner("fd00::5", "fd00:20::2", 60), 1),
            ),
            (
                "no hop",
                at_its_last_hop(inner("10.9.0.5", "10.20.0.2", 60), 0),
            ),
        ];
        for (why, packet) in &packets {
            let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, packet))?;
            assert!(is_delivered(&ran, packet), "{why}");
        }
        let plain = inner("10.9.0.5", "10.20.0.2", 1280);
        let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &plain))?;
        assert_eq!(ran.verdict, XDP_REDIRECT, "the others had reasons");
        assert_eq!(bed.count(Counted::RxDirect), 1);
        assert_eq!(bed.count(Counted::RxPackets), packets.len() as u64 + 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_device_that_is_not_allowed_is_not_used() {
    alone(|| {
        let tun_ifindex = ifindex("tun0")?;
        let mut bed = Bed::with(|options| {
            options.direct = true;
            options.tun_ifindex = tun_ifindex;
        })?;
        bed.ifindex = ifindex("wan")?;
        bed.kernel.set_mac(INGRESS, LAN_MAC)?;
        bed.kernel.set_mac(ifindex("lan")?, LAN_MAC)?;
        bed.install(0, 1, FLOW4)?;
        bed.hear(0);
        let packet = inner("10.9.0.5", "10.20.0.2", 60);
        let ran = bed.xdp("xdp_rx", &Client::new(1).frame(FLOW4, &packet))?;
        assert!(is_delivered(&ran, &packet));
        let bytes = lan_frame(&inner("10.20.0.2", "10.9.0.5", 60));
        assert!(is_left(&bed.xdp("xdp_tx", &bytes)?, &bytes));
        assert_eq!(bed.record().channels[0].take_tx_seq(1), Some(1));
        Ok(())
    })
    .unwrap();
}

fn assert_sealed(ran: &Ran, flow: (&str, &str), packet: &[u8]) {
    assert_eq!(ran.verdict, XDP_REDIRECT);
    let opened = seal::open(&ran.packet, flow, &client_channel(1), 0, false);
    assert_eq!(opened.packet, one_hop(packet));
}

#[test]
fn frames_of_the_lan_are_sealed() {
    alone(|| {
        for flow in [FLOW4, FLOW6] {
            let mut bed = bed(flow)?;
            for len in (40..=1500).step_by(73) {
                for packet in [
                    bare("10.20.0.2", "10.9.0.5", len),
                    bare("fd00:20::2", "fd00::5", len),
                ] {
                    assert_sealed(&bed.xdp("xdp_tx", &lan_frame(&packet))?, flow, &packet);
                }
            }
            assert_eq!(bed.count(Counted::TxDirect), bed.count(Counted::TxPackets));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn padding_of_the_lan_s_frames_is_not_sealed() {
    alone(|| {
        let mut bed = bed(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 30);
        for padding in [1, 16, 17, 18, 100] {
            let bytes = [lan_frame(&packet), vec![0xaa; padding]].concat();
            assert_sealed(&bed.xdp("xdp_tx", &bytes)?, FLOW4, &packet);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn other_frames_of_the_lan_are_left() {
    alone(|| {
        let mut bed = bed(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        let mut other_host = lan_frame(&packet);
        other_host[5] ^= 1;
        let mut vlan = lan_frame(&packet);
        vlan.splice(12..12, [0x81, 0, 0, 5]);
        let frames = [
            ("another host's", other_host),
            ("VLAN", vlan),
            ("no client", lan_frame(&inner("10.20.0.2", "10.9.0.6", 60))),
            ("last hop", lan_frame(&at_its_last_hop(packet.clone(), 1))),
            ("options", lan_frame(&with_options("10.20.0.2", "10.9.0.5"))),
            (
                "hop-by-hop",
                lan_frame(&with_hop_by_hop("fd00:20::2", "fd00::5")),
            ),
            ("cut off", lan_frame(&packet)[..60].to_vec()),
            ("no packet", lan_frame(&packet)[..14].to_vec()),
        ];
        for (why, bytes) in &frames {
            let ran = bed.xdp("xdp_tx", bytes)?;
            assert!(is_left(&ran, bytes), "{why}");
        }
        assert_eq!(bed.record().channels[0].take_tx_seq(1), Some(1));
        Ok(())
    })
    .unwrap();
}

#[test]
fn nothing_overtakes_what_looks_as_if_its_checksum_were_open() {
    alone(|| {
        let mut bed = bed(FLOW4)?;
        let (from, to) = ("10.20.0.2".parse()?, "10.9.0.5".parse()?);
        let mut udp = vec![0x22; 40];
        let open = !checksum(&pseudo_header(from, to, 17, 40));
        udp[6..8].copy_from_slice(&open.to_be_bytes());
        let frame = lan_frame(&packets::ip(from, to, 17, &udp, 0));
        assert!(is_left(&bed.xdp("xdp_tx", &frame)?, &frame));
        // As if it had come at this moment, whatever time the test takes.
        let held = &bed.record().tx_pace.bulk_ms;
        assert_ne!(held.get(), 0);
        held.set(now_ms() + 1000);
        let next = lan_frame(&inner("10.20.0.2", "10.9.0.5", 60));
        assert!(is_left(&bed.xdp("xdp_tx", &next)?, &next));
        let counted = [Counted::UpForm, Counted::UpBulk].map(|what| bed.count(what));
        assert_eq!(counted, [0, 0], "that is for the program on the tun device");
        Ok(())
    })
    .unwrap();
}

#[test]
fn nothing_is_direct_when_it_is_off() {
    alone(|| {
        let mut bed = Bed::new()?;
        bed.ifindex = ifindex("wan")?;
        bed.kernel.allow_direct(ifindex("wan")?)?;
        bed.kernel.allow_direct(ifindex("lan")?)?;
        bed.kernel.set_mac(INGRESS, LAN_MAC)?;
        bed.install(0, 1, FLOW4)?;
        bed.hear(0);
        let packet = inner("10.9.0.5", "10.20.0.2", 60);
        let ran = bed.xdp("xdp_rx", &Client::new(1).frame(FLOW4, &packet))?;
        assert_eq!((ran.verdict, ran.marked), (PASS, true));
        let bytes = lan_frame(&inner("10.20.0.2", "10.9.0.5", 60));
        assert!(is_left(&bed.xdp("xdp_tx", &bytes)?, &bytes));
        Ok(())
    })
    .unwrap();
}
