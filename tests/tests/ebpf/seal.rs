//! `tc_tx`: packets to clients.

use std::net::SocketAddr;

use anyhow::Result;
use ocserv_common::datagram::{HEAD, parse};
use ocserv_common::kernel::{Counted, FlowKey};
use ocserv_common::replay::ReplayWindow;
use ocserv_proto::config::NetPriority;
use ocserv_proto::dtls::DtlsChannel;

use crate::bed::{
    Bed, FLOW4, FLOW6, Ran, SkbFields, TC_NEXT, TC_REDIRECT, client_channel, keys, now_ms, params,
};
use crate::net::{ROUTER_MAC, WAN_MAC, alone, ifindex, ip as ip_lines};
use crate::packets::{bare, checksum, inner, ip, pseudo_header};

/// A session that the client was heard of.
pub fn bed_towards(flow: (&str, &str)) -> Result<Bed> {
    let mut bed = Bed::new()?;
    bed.ifindex = ifindex("wan")?;
    bed.install(0, 1, flow)?;
    bed.hear(0);
    Ok(bed)
}

/// Checks a sealed frame's headers and opens it as the client does. Gives number and packet.
pub fn open(frame: &[u8], flow: (&str, &str), client: &DtlsChannel, tos: u8, df: bool) -> Opened {
    let peer: SocketAddr = flow.0.parse().unwrap();
    let local: SocketAddr = flow.1.parse().unwrap();
    let expected = FlowKey::new(local, peer);
    let mut head = [0; HEAD];
    let len = frame.len().min(HEAD);
    head[..len].copy_from_slice(&frame[..len]);
    // A finished checksum looks like an open one once in 65,536 times; it is checked below.
    let udp = if peer.is_ipv4() { 34 } else { 54 };
    head[udp + 6..udp + 8].fill(0);
    let mut found = expected;
    let record = parse(&head, frame.len(), 0, &mut found).unwrap();
    assert_eq!(found, expected);
    assert_eq!(frame[..12], [ROUTER_MAC, WAN_MAC].concat());
    assert_eq!(record.offset + 13 + record.length, frame.len());
    assert_eq!(record.tos, tos);
    check_outer(frame, peer.ip(), local.ip(), df);
    let mut bytes = frame[record.offset..].to_vec();
    let opened = client.open(&mut bytes, &ReplayWindow::new()).unwrap();
    assert_eq!(opened.plaintext[0], 0);
    Opened {
        sequence: record.sequence,
        packet: opened.plaintext[1..].to_vec(),
    }
}

/// What was in a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The record's number.
    pub sequence: u64,
    /// The inner packet.
    pub packet: Vec<u8>,
}

fn check_outer(frame: &[u8], peer: std::net::IpAddr, local: std::net::IpAddr, df: bool) {
    if peer.is_ipv4() {
        assert_eq!(frame[12..14], [8, 0]);
        let len = u16::from_be_bytes([frame[16], frame[17]]);
        assert_eq!(usize::from(len), frame.len() - 14);
        assert_eq!(
            (frame[14], frame[20], frame[21]),
            (0x45, if df { 0x40 } else { 0 }, 0)
        );
        assert_eq!((frame[22], frame[23]), (64, 17));
        assert_eq!(checksum(&frame[14..34]), 0);
        let covered = [
            pseudo_header(local, peer, 17, len - 20),
            frame[34..].to_vec(),
        ];
        assert_eq!(checksum(&covered.concat()), 0);
        assert_ne!(frame[40..42], [0, 0]);
    } else {
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        let len = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(usize::from(len), frame.len() - 54);
        assert_eq!((frame[20], frame[21]), (17, 64));
        let covered = [pseudo_header(local, peer, 17, len), frame[54..].to_vec()];
        assert_eq!(checksum(&covered.concat()), 0);
        assert_ne!(frame[60..62], [0, 0]);
    }
}

/// Left to user space, and nothing changed.
pub fn is_left(ran: &Ran, packet: &[u8]) -> bool {
    ran.verdict == TC_NEXT && ran.packet == packet
}

#[test]
fn packets_of_every_length_are_sealed() {
    alone(|| {
        for flow in [FLOW4, FLOW6] {
            let mut bed = bed_towards(flow)?;
            let client = client_channel(1);
            let mut sent = 0;
            let mut bytes = 0;
            for len in 20..=1500 {
                let mut packets = vec![bare("10.20.0.2", "10.9.0.5", len)];
                if len >= 40 {
                    packets.push(bare("fd00:20::2", "fd00::5", len));
                }
                for packet in packets {
                    let ran = bed.tc("tc_tx", &packet)?;
                    assert_eq!(ran.verdict, TC_REDIRECT, "{len} bytes");
                    sent += 1;
                    bytes += len as u64;
                    let opened = open(&ran.packet, flow, &client, 0, false);
                    let sequence = sent;
                    assert_eq!(opened, Opened { sequence, packet });
                }
            }
            assert_eq!(bed.count(Counted::TxPackets), sent);
            assert_eq!(bed.record().tx_packets.get(), sent);
            assert_eq!(bed.count(Counted::TxBytes), bytes);
            assert_eq!(bed.record().tx_bytes.get(), bytes);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn outer_headers_carry_what_the_session_asks_for() {
    alone(|| {
        for flow in [FLOW4, FLOW6] {
            let mut bed = Bed::new()?;
            bed.ifindex = ifindex("wan")?;
            let mut session = params();
            session.net_priority = Some(NetPriority::Tos(0xb8));
            bed.dont_fragment = true;
            bed.install_for(&session, 0, 1, flow, &keys(1))?;
            bed.hear(0);
            let packet = inner("10.20.0.2", "10.9.0.5", 100);
            let ran = bed.tc("tc_tx", &packet)?;
            let opened = open(&ran.packet, flow, &client_channel(1), 0xb8, true);
            assert_eq!(opened.packet, packet);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn padding_behind_a_packet_is_not_sealed() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        for padding in [1, 4, 100, 2000] {
            let padded = [packet.clone(), vec![0xaa; padding]].concat();
            let ran = bed.tc("tc_tx", &padded)?;
            assert_eq!(ran.verdict, TC_REDIRECT);
            let opened = open(&ran.packet, FLOW4, &client_channel(1), 0, false);
            assert_eq!(opened.packet, packet);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_has_no_way_to_the_client_is_left() {
    alone(|| {
        let mut bed = bed_towards(("203.0.113.1:4000", FLOW4.1))?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        let before = now_ms() - 10;
        assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
        assert_eq!(bed.count(Counted::UpRoute), 1);
        let held = bed.record().tx_pace.bulk_ms.get();
        assert!(held >= before, "nothing overtakes it");
        let stranger = inner("10.20.0.2", "10.9.0.6", 60);
        assert!(is_left(&bed.tc("tc_tx", &stranger)?, &stranger));
        assert_eq!(bed.count(Counted::UpSession), 1);
        let no_ip = [0x10; 60];
        assert!(is_left(&bed.tc("tc_tx", &no_ip)?, &no_ip));
        assert_eq!(bed.count(Counted::UpForm), 1);
        assert_eq!(
            bed.record().channels[0].take_tx_seq(1),
            Some(1),
            "no number was used up"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_the_device_cannot_send_whole_is_left() {
    alone(|| {
        ip_lines("link set wan mtu 1400")?;
        for (flow, headers) in [(FLOW4, 28), (FLOW6, 48)] {
            let mut bed = bed_towards(flow)?;
            let most = 1400 - headers - 30;
            let fits = inner("10.20.0.2", "10.9.0.5", most);
            assert_eq!(bed.tc("tc_tx", &fits)?.verdict, TC_REDIRECT);
            let longer = inner("10.20.0.2", "10.9.0.5", most + 1);
            assert!(is_left(&bed.tc("tc_tx", &longer)?, &longer));
            assert_eq!(bed.count(Counted::UpRoute), 1);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn open_checksums_are_left() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        for (from, to) in [("10.20.0.2", "10.9.0.5"), ("fd00:20::2", "fd00::5")] {
            let (from, to) = (from.parse()?, to.parse()?);
            for (protocol, at) in [(6, 16), (17, 6)] {
                let mut payload = vec![0x22; 40];
                let open = !checksum(&pseudo_header(from, to, protocol, 40));
                payload[at..at + 2].copy_from_slice(&open.to_be_bytes());
                let packet = ip(from, to, protocol, &payload, 0);
                let before = now_ms() - 10;
                assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
                let held = &bed.record().tx_pace.bulk_ms;
                // It may be a finished one that looks so, among others of its flow.
                assert!(held.get() >= before, "nothing overtakes it");
                held.set(0);
                payload[at] ^= 1;
                let packet = ip(from, to, protocol, &payload, 0);
                assert_eq!(bed.tc("tc_tx", &packet)?.verdict, TC_REDIRECT);
            }
        }
        let own = inner("10.20.0.1", "10.9.0.5", 60);
        let local = bed.tc_with("tc_tx", &own, SkbFields::default())?;
        assert!(is_left(&local, &own), "UDP of this host may be a tunnel");
        assert_eq!(bed.record().tx_pace.bulk_ms.get(), 0);
        assert_eq!(bed.count(Counted::UpForm), 5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_newest_channel_is_used_once_the_client_was_heard_by_it() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        let sealed = |bed: &mut Bed, seed| -> Result<()> {
            let ran = bed.tc("tc_tx", &packet)?;
            assert_eq!(
                open(&ran.packet, FLOW4, &client_channel(seed), 0, false).packet,
                packet
            );
            Ok(())
        };
        bed.install(1, 2, FLOW4)?;
        sealed(&mut bed, 1)?;
        bed.hear(1);
        sealed(&mut bed, 2)?;
        bed.record().channels[1].live.set_inactive();
        sealed(&mut bed, 1)?;
        bed.record().channels[0].live.set_inactive();
        assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_silent_channel_is_not_used() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        let silence = u64::from(params().dtls_settings().silence_ms());
        assert!(silence > 0);
        let live = &bed.record().channels[0].live;
        live.last_rx_ms.set(now_ms().saturating_sub(silence + 1000));
        assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
        bed.hear(0);
        assert_eq!(bed.tc("tc_tx", &packet)?.verdict, TC_REDIRECT);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_record_begun_for_other_keys_is_not_sealed_for() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        bed.record().channels[0].start(9, 1, 1, 1, 1);
        bed.hear(0);
        assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
        assert_eq!(bed.record().channels[0].take_tx_seq(1), Some(1));
        Ok(())
    })
    .unwrap();
}

#[test]
fn packets_to_networks_behind_the_client_are_sealed() {
    alone(|| {
        let mut bed = Bed::new()?;
        bed.ifindex = ifindex("wan")?;
        let mut session = params();
        session.iroutes = vec![("172.16.0.0".parse()?, 12), ("fd77::".parse()?, 32)];
        bed.install_for(&session, 0, 1, FLOW6, &keys(1))?;
        bed.hear(0);
        for (to, verdict) in [
            ("172.16.0.1", TC_REDIRECT),
            ("172.31.255.255", TC_REDIRECT),
            ("172.32.0.1", TC_NEXT),
        ] {
            assert_eq!(
                bed.tc("tc_tx", &bare("10.20.0.2", to, 60))?.verdict,
                verdict,
                "{to}"
            );
        }
        for (to, verdict) in [("fd77::9", TC_REDIRECT), ("fd78::9", TC_NEXT)] {
            assert_eq!(
                bed.tc("tc_tx", &bare("fd00:20::2", to, 60))?.verdict,
                verdict,
                "{to}"
            );
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_epoch_that_is_used_up_is_left() {
    alone(|| {
        let mut bed = Bed::new()?;
        bed.ifindex = ifindex("wan")?;
        let mut last = keys(1);
        last.next_send = (1 << 48) - 1;
        bed.install_for(&params(), 0, 1, FLOW4, &last)?;
        bed.hear(0);
        let packet = inner("10.20.0.2", "10.9.0.5", 60);
        let ran = bed.tc("tc_tx", &packet)?;
        let opened = open(&ran.packet, FLOW4, &client_channel(1), 0, false);
        assert_eq!(opened.sequence, (1 << 48) - 1);
        assert!(is_left(&bed.tc("tc_tx", &packet)?, &packet));
        Ok(())
    })
    .unwrap();
}
