//! `tc_rx`: what differs from `xdp_rx`, and that the rest does not.

use std::net::SocketAddr;

use anyhow::Result;
use ocserv_common::kernel::{BULK_HOLD_MS, Counted};

use crate::bed::{
    Bed, FLOW4, FLOW6, FORWARDED, LOCAL4, Ran, SkbFields, TC_DROP, TC_NEXT, TC_REDIRECT, now_ms,
};
use crate::packets::{Client, MACS, bare, checksum, frame, inner, pseudo_header};

/// A session, and its client.
struct Session {
    bed: Bed,
    client: Client,
}

impl Session {
    fn new(flow: (&'static str, &'static str)) -> Self {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, flow).unwrap();
        Self {
            bed,
            client: Client::new(1),
        }
    }

    fn run(&mut self, bytes: &[u8]) -> Ran {
        self.bed.tc("tc_rx", bytes).unwrap()
    }

    fn is_delivered(&mut self, bytes: &[u8], packet: &[u8]) -> bool {
        is_delivered(&self.run(bytes), packet)
    }

    fn is_left(&mut self, bytes: &[u8]) -> bool {
        is_left(&self.run(bytes), bytes)
    }

    fn is_dropped(&mut self, bytes: &[u8]) -> bool {
        self.run(bytes).verdict == TC_DROP
    }
}

/// An inner packet for the tun device. The Ethernet header goes with the redirection, its type with it.
fn is_delivered(ran: &Ran, packet: &[u8]) -> bool {
    ran.verdict == TC_REDIRECT && ran.packet[..12] == MACS && ran.packet[14..] == *packet
}

/// Left to user space, and nothing changed.
fn is_left(ran: &Ran, frame: &[u8]) -> bool {
    ran.verdict == TC_NEXT && ran.packet == frame
}

fn short() -> Vec<u8> {
    inner("10.9.0.5", "10.20.0.2", 60)
}

#[test]
fn records_of_all_lengths_become_their_inner_packets() {
    for flow in [FLOW4, FLOW6] {
        let mut session = Session::new(flow);
        let mut packets = 0;
        for len in (20..=1500).step_by(5).chain([1499]) {
            let mut inner = vec![bare("10.9.0.5", "10.20.0.2", len)];
            if len >= 40 {
                inner.push(bare("fd00::5", "fd00:20::2", len));
            }
            for packet in inner {
                let bytes = session.client.frame(flow, &packet);
                assert!(session.is_delivered(&bytes, &packet), "{len} bytes");
                packets += 1;
            }
        }
        assert_eq!(session.bed.count(Counted::RxPackets), packets);
        assert_eq!(session.bed.record().rx_packets.get(), packets);
        let live = &session.bed.record().channels[0].live;
        assert_eq!(live.ifindex.get(), 1, "the device that it came by");
    }
}

#[test]
fn what_is_no_packet_of_the_session_is_left_or_dropped() {
    let mut session = Session::new(FLOW4);
    let bytes = session.client.frame(FLOW4, &short());
    assert!(session.is_delivered(&bytes, &short()));
    assert!(session.is_dropped(&bytes), "the same once more");
    assert_eq!(session.bed.count(Counted::DropReplay), 1);
    let mut bytes = session.client.frame(FLOW4, &short());
    *bytes.last_mut().unwrap() ^= 1;
    assert!(session.is_dropped(&bytes));
    assert_eq!(session.bed.count(Counted::DropAuth), 1);
    let foreign = inner("10.9.0.6", "10.20.0.2", 60);
    let bytes = session.client.frame(FLOW4, &foreign);
    assert!(session.is_dropped(&bytes));
    assert_eq!(session.bed.count(Counted::DropSource), 1);
    let bytes = frame(FLOW4, &session.client.record(3, b"dpd"));
    assert!(session.is_left(&bytes));
    let bytes = session.client.frame(("192.0.2.78:40000", LOCAL4), &short());
    assert!(session.is_left(&bytes));
    let whole = session.client.frame(FLOW4, &short());
    // The kernel runs the program on nothing shorter than an IP header.
    for len in 34..whole.len() {
        assert!(session.is_left(&whole[..len]), "{len}");
    }
    assert!(session.is_delivered(&whole, &short()));
}

#[test]
fn padding_is_taken_off_in_pairs_of_bytes() {
    for flow in [FLOW4, FLOW6] {
        let mut session = Session::new(flow);
        for padding in [2, 16, 500] {
            let padded = [short(), vec![0xaa; padding]].concat();
            let bytes = session.client.frame(flow, &padded);
            assert!(session.is_delivered(&bytes, &short()));
            let mut bytes = session.client.frame(flow, &short());
            bytes.extend(vec![0; padding]);
            assert!(session.is_delivered(&bytes, &short()));
        }
        // A sum over all bytes would be wrong behind an odd number.
        let mut bytes = session.client.frame(flow, &short());
        bytes.push(0);
        assert!(session.is_left(&bytes));
        let window = session.bed.record().channels[0].window();
        assert!(window.would_accept(session.client.sequence - 1));
    }
}

#[test]
fn tags_within_the_frame_are_left() {
    for flow in [FLOW4, FLOW6] {
        let mut session = Session::new(flow);
        for tags in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5]] {
            let mut bytes = session.client.frame(flow, &short());
            bytes.splice(12..12, tags.iter().copied());
            let before = now_ms() - 10;
            assert!(session.is_left(&bytes));
            let held = &session.bed.record().rx_pace.bulk_ms;
            assert!(held.get() >= before, "nothing overtakes it");
            held.set(0);
        }
        assert_eq!(session.bed.count(Counted::UpRoute), 2);
    }
}

#[test]
fn a_checksum_that_a_device_was_to_complete_does_no_harm() {
    for (flow, at) in [(FLOW4, 40), (FLOW6, 60)] {
        let mut session = Session::new(flow);
        let [peer, local] = [flow.0, flow.1].map(|text| text.parse::<SocketAddr>().unwrap().ip());
        let mut bytes = session.client.frame(flow, &short());
        let len = (bytes.len() - at + 6) as u16;
        let open = !checksum(&pseudo_header(peer, local, 17, len));
        bytes[at..at + 2].copy_from_slice(&open.to_be_bytes());
        assert!(session.is_delivered(&bytes, &short()));
    }
}

/// A frame that the kernel merged of `count` equally long datagrams, and its segment.
fn merged(client: &mut Client, flow: (&str, &str), count: usize) -> (Vec<u8>, SkbFields) {
    let records: Vec<_> = (0..count).map(|_| client.record(0, &short())).collect();
    let fields = SkbFields {
        gso_size: records[0].len() as u32,
        ..FORWARDED
    };
    (frame(flow, &records.concat()), fields)
}

#[test]
fn what_is_merged_is_left_and_small_ones_behind_it_too() {
    for flow in [FLOW4, FLOW6] {
        let mut session = Session::new(flow);
        let before = now_ms() - 10;
        let (bytes, fields) = merged(&mut session.client, flow, 3);
        let ran = session.bed.tc_with("tc_rx", &bytes, fields).unwrap();
        assert!(is_left(&ran, &bytes));
        assert_eq!(session.bed.count(Counted::UpBulk), 1);
        let held = &session.bed.record().rx_pace.bulk_ms;
        assert!(held.get() >= before);
        held.set(now_ms() + 1000);
        let bytes = session.client.frame(flow, &short());
        assert!(session.is_left(&bytes));
        assert_eq!(session.bed.count(Counted::UpBulk), 2);
        let past = now_ms() - 6 * u64::from(BULK_HOLD_MS);
        session.bed.record().rx_pace.bulk_ms.set(past);
        assert!(session.is_delivered(&bytes, &short()), "the hold is over");
    }
}

#[test]
fn what_is_merged_of_others_holds_nobody() -> Result<()> {
    let mut session = Session::new(FLOW4);
    let (mut bytes, fields) = merged(&mut session.client, ("192.0.2.78:40000", LOCAL4), 3);
    let ran = session.bed.tc_with("tc_rx", &bytes, fields)?;
    assert!(is_left(&ran, &bytes));
    assert_eq!(session.bed.count(Counted::UpSession), 1);
    // Segments that are no records, and control records.
    for (change, counted) in [(1, Counted::UpForm), (0, Counted::UpControl)] {
        let (whole, mut fields) = merged(&mut session.client, FLOW4, 3);
        bytes = whole;
        fields.gso_size += change;
        if change == 0 {
            bytes[42] = 22;
        }
        let ran = session.bed.tc_with("tc_rx", &bytes, fields)?;
        assert!(is_left(&ran, &bytes));
        assert_eq!(session.bed.count(counted), 1);
    }
    assert_eq!(session.bed.record().rx_pace.bulk_ms.get(), 0);
    Ok(())
}
