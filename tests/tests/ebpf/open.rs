//! `xdp_rx`: records from clients, and what becomes of them.

use ocserv_common::kernel::Counted;
use ocserv_common::session::DropReason;

use crate::bed::{Bed, DROP, FLOW4, FLOW6, PASS, Ran};
use crate::packets::{Client, MACS, bare, ethernet, frame, inner};

/// Left to user space, and nothing changed.
pub fn is_left(ran: &Ran, frame: &[u8]) -> bool {
    ran.verdict == PASS && !ran.marked && ran.packet == frame
}

/// An inner packet for the tun device.
pub fn is_delivered(ran: &Ran, packet: &[u8]) -> bool {
    ran.verdict == PASS && ran.marked && ran.packet == ethernet(packet)
}

#[test]
fn records_of_every_length_become_their_inner_packets() {
    for flow in [FLOW4, FLOW6] {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, flow).unwrap();
        let mut client = Client::new(1);
        let (mut packets, mut bytes) = (0, 0);
        for len in 20..=1500 {
            let mut inner = vec![bare("10.9.0.5", "10.20.0.2", len)];
            if len >= 40 {
                inner.push(bare("fd00::5", "fd00:20::2", len));
            }
            for packet in inner {
                let ran = bed.xdp("xdp_rx", &client.frame(flow, &packet)).unwrap();
                assert!(is_delivered(&ran, &packet), "{len} bytes");
                assert_eq!(ran.packet[..12], MACS);
                packets += 1;
                bytes += len as u64;
            }
        }
        assert_eq!(bed.count(Counted::RxPackets), packets);
        assert_eq!(bed.record().rx_packets.get(), packets);
        assert_eq!(bed.count(Counted::RxBytes), bytes);
        assert_eq!(bed.record().rx_bytes.get(), bytes);
    }
}

/// Bytes of the frame's headers that neither say whose record it is nor where: Ethernet addresses, TOS,
/// total length (upwards), identification, DF, TTL and the checksums.
fn is_free(at: usize, is_ipv4: bool) -> bool {
    match is_ipv4 {
        true => matches!(at, 0..=11 | 15..=20 | 22 | 24 | 25 | 40 | 41),
        false => matches!(at, 0..=11 | 14..=19 | 21 | 60 | 61),
    }
}

#[test]
fn a_frame_with_any_bit_turned_is_never_delivered_as_something_else() {
    for flow in [FLOW4, FLOW6] {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, flow).unwrap();
        let mut client = Client::new(1);
        let packet = inner("10.9.0.5", "10.20.0.2", 60);
        let mut delivered = 0;
        let len = client.frame(flow, &packet).len();
        for bit in 0..8 * len {
            let mut bytes = client.frame(flow, &packet);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // What was left before holds nothing up.
            bed.record().rx_pace.bulk_ms.set(0);
            let ran = bed.xdp("xdp_rx", &bytes).unwrap();
            match (ran.verdict, ran.marked) {
                (PASS, true) => {
                    assert!(is_free(bit / 8, flow == FLOW4), "bit {bit}");
                    assert_eq!(ran.packet[14..], packet);
                    delivered += 1;
                }
                (PASS, false) => assert_eq!(ran.packet, bytes, "bit {bit}"),
                other => assert_eq!(other, (DROP, false), "bit {bit}"),
            }
        }
        assert!(delivered > 0);
        assert_eq!(bed.record().rx_packets.get(), delivered);
        assert!(bed.record().drops(DropReason::Auth) >= 8 * (60 + 17));
        assert_eq!(
            bed.count(Counted::DropAuth),
            bed.record().drops(DropReason::Auth)
        );
    }
}

#[test]
fn other_records_are_left() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    let mut client = Client::new(1);
    // Content type, version, epoch, length.
    for (at, values) in [
        (0, &[20, 21, 22, 24, 25][..]),
        (1, &[0, 3]),
        (2, &[0xff, 0xfc]),
        (4, &[0, 2]),
        (3, &[1]),
        (12, &[0, 16, 17]),
        (11, &[1, 0xff]),
    ] {
        for value in values {
            let mut record = client.record(0, &packet);
            record[at] = *value;
            let bytes = frame(FLOW4, &record);
            let ran = bed.xdp("xdp_rx", &bytes).unwrap();
            assert!(is_left(&ran, &bytes), "{value} at {at}");
        }
    }
    assert_eq!(bed.record().drops(DropReason::Auth), 0);
}

#[test]
fn control_packets_and_empty_ones_are_left_and_not_committed() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    let mut client = Client::new(1);
    for kind in 1..=255 {
        let bytes = frame(FLOW4, &client.record(kind, &packet));
        assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    }
    let bytes = frame(FLOW4, &client.record(0, &[]));
    assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    assert_eq!(bed.count(Counted::UpControl), 256);
    let window = bed.record().channels[0].window();
    assert!((1..=256).all(|sequence| window.would_accept(sequence)));
    assert_eq!(bed.record().channels[0].live.active.get(), 0);
}

#[test]
fn records_too_short_for_their_tag_are_left() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    for len in 0..=16_u8 {
        let mut record = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, len];
        record.resize(13 + usize::from(len), 7);
        let bytes = frame(FLOW4, &record);
        assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    }
    assert_eq!(bed.count(Counted::UpForm), 17);
}

#[test]
fn what_is_no_ip_packet_is_left_to_user_space() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let mut client = Client::new(1);
    let short = inner("10.9.0.5", "10.20.0.2", 60)[..59].to_vec();
    let mut options = inner("10.9.0.5", "10.20.0.2", 60);
    options[0] = 0x44;
    let longer = inner("fd00::5", "fd00:20::2", 60)[..59].to_vec();
    let garbage = vec![vec![0x45], vec![0x60; 39], vec![0x45; 19], vec![0; 60]];
    let all = [vec![short, options, longer], garbage].concat();
    for packet in &all {
        let bytes = client.frame(FLOW4, packet);
        assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    }
    assert_eq!(bed.count(Counted::UpForm), all.len() as u64);
}

#[test]
fn padding_within_a_record_is_not_delivered() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let mut client = Client::new(1);
    for packet in [
        inner("10.9.0.5", "10.20.0.2", 60),
        inner("fd00::5", "fd00:20::2", 60),
    ] {
        for padding in [1, 3, 16, 500] {
            let padded = [packet.clone(), vec![0xaa; padding]].concat();
            let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &padded)).unwrap();
            assert!(is_delivered(&ran, &packet));
        }
    }
    assert_eq!(bed.record().rx_bytes.get(), 8 * 60);
}
