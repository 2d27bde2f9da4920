//! Forms that a frame's outer headers can have.

use std::net::SocketAddr;

use ocserv_common::kernel::Counted;

use crate::bed::{Bed, FLOW4, FLOW6, PASS, now_ms};
use crate::open::{is_delivered, is_left};
use crate::packets::{Client, MACS, checksum, ethernet, inner, pseudo_header, udp};

struct Form {
    bed: Bed,
    client: Client,
    packet: Vec<u8>,
    flow: (&'static str, &'static str),
}

impl Form {
    fn new(flow: (&'static str, &'static str)) -> Self {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, flow).unwrap();
        Self {
            bed,
            client: Client::new(1),
            packet: inner("10.9.0.5", "10.20.0.2", 60),
            flow,
        }
    }

    /// The next record's frame, with its outer IP packet changed.
    fn frame(&mut self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let bytes = self.client.frame(self.flow, &self.packet);
        ethernet(&change(bytes[14..].to_vec()))
    }

    fn is_delivered(&mut self, bytes: &[u8]) -> bool {
        let ran = self.bed.xdp("xdp_rx", bytes).unwrap();
        is_delivered(&ran, &self.packet)
    }

    fn is_left(&mut self, bytes: &[u8]) -> bool {
        is_left(&self.bed.xdp("xdp_rx", bytes).unwrap(), bytes)
    }
}

/// An IPv4 packet with options.
fn with_options(mut packet: Vec<u8>, words: usize) -> Vec<u8> {
    packet[0] = 0x45 + words as u8;
    let len = (packet.len() + 4 * words) as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.splice(20..20, vec![1; 4 * words]);
    packet
}

/// An IPv6 packet with extension headers of this kind.
fn with_extensions(mut packet: Vec<u8>, kind: u8, count: usize) -> Vec<u8> {
    let len = (packet.len() - 40 + 8 * count) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet[6] = kind;
    for n in 0..count {
        let next = if n == 0 { 17 } else { kind };
        packet.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
    }
    packet
}

#[test]
fn vlan_tags_are_taken_off() {
    for flow in [FLOW4, FLOW6] {
        let mut form = Form::new(flow);
        for tags in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5]] {
            let mut bytes = form.frame(|packet| packet);
            bytes.splice(12..12, tags.iter().copied());
            assert!(form.is_delivered(&bytes));
        }
        let mut bytes = form.frame(|packet| packet);
        bytes.splice(12..12, [0x81, 0, 0, 5].repeat(3));
        assert!(form.is_left(&bytes));
    }
}

#[test]
fn options_and_extension_headers_are_skipped() {
    let mut form = Form::new(FLOW4);
    for words in 1..=10 {
        let bytes = form.frame(|packet| with_options(packet, words));
        assert!(form.is_delivered(&bytes), "{words}");
    }
    let mut form = Form::new(FLOW6);
    for kind in [0, 43, 60] {
        for count in 1..=4 {
            let bytes = form.frame(|packet| with_extensions(packet, kind, count));
            assert!(form.is_delivered(&bytes), "{count} of {kind}");
        }
        let bytes = form.frame(|packet| with_extensions(packet, kind, 5));
        assert!(form.is_left(&bytes));
    }
    for kind in [44, 50, 51, 59] {
        let bytes = form.frame(|packet| with_extensions(packet, kind, 1));
        assert!(form.is_left(&bytes), "{kind}");
    }
}

#[test]
fn fragments_are_left_and_nothing_overtakes_the_first() {
    let mut form = Form::new(FLOW4);
    for (word, is_first) in [
        (0x2000_u16, true),
        (0x2004, false),
        (0x0004, false),
        (0x8000, false),
    ] {
        let bytes = form.frame(|mut packet| {
            packet[6..8].copy_from_slice(&word.to_be_bytes());
            packet
        });
        assert!(form.is_left(&bytes));
        let held = &form.bed.record().rx_pace.bulk_ms;
        assert_eq!(held.get() != 0, is_first, "{word:x}");
        held.set(0);
    }
    assert_eq!(form.bed.count(Counted::UpForm), 4);
    let mut form = Form::new(FLOW6);
    let bytes = form.frame(|packet| {
        let mut packet = with_extensions(packet, 44, 1);
        packet[42..44].copy_from_slice(&[0, 1]);
        packet
    });
    assert!(form.is_left(&bytes));
    assert_ne!(form.bed.record().rx_pace.bulk_ms.get(), 0);
}

#[test]
fn a_frame_that_is_cut_off_anywhere_is_left() {
    for flow in [FLOW4, FLOW6] {
        let mut form = Form::new(flow);
        let whole = form.frame(|packet| packet);
        // The kernel runs programs on nothing shorter than an Ethernet header.
        for len in 14..whole.len() {
            assert!(form.is_left(&whole[..len]), "{len}");
        }
        assert!(form.is_delivered(&whole));
    }
}

#[test]
fn padding_behind_a_datagram_is_taken_off() {
    for flow in [FLOW4, FLOW6] {
        let mut form = Form::new(flow);
        for padding in [1, 6, 46, 300] {
            let bytes = form.frame(|packet| [packet, vec![0; padding]].concat());
            assert!(form.is_delivered(&bytes));
        }
    }
}

#[test]
fn a_datagram_whose_checksum_a_device_was_to_complete_is_left() {
    for (flow, at) in [(FLOW4, 26), (FLOW6, 46)] {
        let mut form = Form::new(flow);
        let (peer, local): (SocketAddr, SocketAddr) =
            (flow.0.parse().unwrap(), flow.1.parse().unwrap());
        let bytes = form.frame(|mut packet| {
            let len = (packet.len() - at + 6) as u16;
            let open = !checksum(&pseudo_header(peer.ip(), local.ip(), 17, len));
            packet[at..at + 2].copy_from_slice(&open.to_be_bytes());
            packet
        });
        let before = now_ms() - 10;
        assert!(form.is_left(&bytes));
        assert_eq!(form.bed.count(Counted::UpForm), 1);
        let held = form.bed.record().rx_pace.bulk_ms.get();
        assert!(held >= before, "nothing overtakes it");
    }
}

#[test]
fn two_records_in_a_datagram_are_left() {
    let mut form = Form::new(FLOW4);
    let records = [0, 0].map(|kind| form.client.record(kind, &form.packet));
    let bytes = crate::packets::frame(FLOW4, &records.concat());
    assert!(form.is_left(&bytes));
}

#[test]
fn other_traffic_is_left_and_not_counted() {
    let mut form = Form::new(FLOW4);
    let (from, to) = (
        "192.0.2.77".parse().unwrap(),
        "198.51.100.1".parse().unwrap(),
    );
    let dns = udp(from, to, 40000, 443, b"not a record of any kind");
    let dns = ethernet(&crate::packets::ip(from, to, 17, &dns, 0));
    let tcp = ethernet(&crate::packets::ip(from, to, 6, &[7; 60], 0));
    let arp = [&MACS[..], &[8, 6], &[0; 46]].concat();
    for bytes in [dns, tcp, arp] {
        assert!(form.is_left(&bytes));
    }
    assert!(
        form.bed
            .kernel
            .counts()
            .unwrap()
            .values
            .iter()
            .all(|n| *n == 0)
    );
}

#[test]
fn records_of_other_flows_are_left() {
    let mut form = Form::new(FLOW4);
    for flow in [
        ("192.0.2.78:40000", FLOW4.1),
        ("192.0.2.77:40001", FLOW4.1),
        (FLOW4.0, "198.51.100.2:443"),
        (FLOW4.0, "198.51.100.1:444"),
        FLOW6,
    ] {
        let bytes = form.client.frame(flow, &form.packet);
        assert!(form.is_left(&bytes));
    }
    assert_eq!(form.bed.count(Counted::UpSession), 5);
}

#[test]
fn a_frame_without_the_mark_is_not_redirected_to_the_tun_device() {
    let mut form = Form::new(FLOW4);
    let frame = form.frame(|packet| packet);
    let ran = form.bed.tc("tc_deliver", &frame).unwrap();
    assert_eq!((ran.verdict, ran.packet), (crate::bed::TC_NEXT, frame));
    assert_ne!(ran.verdict, PASS);
}
