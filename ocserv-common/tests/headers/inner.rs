//! `ocserv_common::inner`.

use ocserv_common::inner::{Checksum, INNER_HEAD, Inner, InnerHead, is_congested, mark_congestion};
use ocserv_common::ip::IpHeader;
use ocserv_common::kernel::address;
use proptest::prelude::*;

use crate::packets::{FLOW4, FLOW6, ipv4, ipv6, pseudo_header, sum};

fn head(packet: &[u8]) -> InnerHead {
    let mut head = [0xee; INNER_HEAD];
    for (to, from) in head.iter_mut().zip(packet) {
        *to = *from;
    }
    head
}

fn parse(packet: &[u8]) -> Option<Inner> {
    Inner::parse(&head(packet), packet.len())
}

/// Puts the right checksum into an IPv4 header.
fn finish(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(&packet[..len]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A packet of a protocol with its checksum field 16 (TCP) or 6 (UDP) bytes behind the header.
fn transport(is_ipv4: bool, protocol: u8, checksum: impl Fn(u16) -> u16) -> Vec<u8> {
    let mut payload = vec![0x11; 40];
    payload[2..4].copy_from_slice(&[0, 53]);
    let flow = if is_ipv4 { FLOW4 } else { FLOW6 };
    let pseudo = sum(&pseudo_header(&flow.peer, &flow.local, protocol, 40));
    let at = if protocol == 6 { 16 } else { 6 };
    payload[at..at + 2].copy_from_slice(&checksum(pseudo).to_be_bytes());
    if is_ipv4 {
        let mut packet = ipv4(&[], &payload);
        packet[9] = protocol;
        packet
    } else {
        ipv6(protocol, &payload)
    }
}

fn look(packet: &[u8], is_local: bool) -> Checksum {
    parse(packet).unwrap().checksum(&head(packet), is_local)
}

#[test]
fn a_pseudo_sum_is_taken_for_an_open_checksum() {
    for is_ipv4 in [true, false] {
        for protocol in [6, 17] {
            let open = transport(is_ipv4, protocol, |sum| sum);
            assert_eq!(look(&open, false), Checksum::LooksOpen);
            let complete = transport(is_ipv4, protocol, |sum| !sum);
            assert_eq!(look(&complete, false), Checksum::Complete);
        }
        let udp = transport(is_ipv4, 17, |sum| !sum);
        assert_eq!(
            look(&udp, true),
            Checksum::Unknown,
            "the host's own UDP may be a tunnel"
        );
        let tcp = transport(is_ipv4, 6, |sum| !sum);
        assert_eq!(look(&tcp, true), Checksum::Unknown);
    }
}

#[test]
fn options_do_not_hide_a_pseudo_sum() {
    let mut tcp = vec![0x11; 40];
    let pseudo = sum(&pseudo_header(&FLOW4.peer, &FLOW4.local, 6, 40));
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let mut packet = ipv4(&[1; 40], &tcp);
    packet[9] = 6;
    assert_eq!(look(&packet, false), Checksum::LooksOpen);
}

#[test]
fn tunnels_and_unknown_protocols_may_have_open_checksums() {
    for port in [4789_u16, 8472, 6081] {
        let mut packet = transport(true, 17, |sum| !sum);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        assert_eq!(look(&packet, false), Checksum::Unknown, "{port}");
    }
    for protocol in 0..=255 {
        let expected = match protocol {
            1 | 6 | 17 | 50 | 58 => Checksum::Complete,
            _ => Checksum::Unknown,
        };
        let packet = transport(true, protocol, |sum| !sum);
        assert_eq!(look(&packet, false), expected);
    }
}

#[test]
fn fragments_go_the_way_of_what_they_are_of() {
    let four = |protocol, word: u16| {
        let mut packet = transport(true, protocol, |sum| sum);
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        packet
    };
    let six = |protocol| {
        let mut packet = transport(false, 44, |sum| !sum);
        packet[40] = protocol;
        packet
    };
    for word in [0x2000, 0x0001, 0x3fff] {
        for protocol in [1, 6, 17, 50, 58] {
            for packet in [four(protocol, word), six(protocol)] {
                assert_eq!(look(&packet, false), Checksum::Complete, "{protocol}");
            }
        }
        for (protocol, is_local) in [(6, true), (17, true), (47, false), (132, false)] {
            for packet in [four(protocol, word), six(protocol)] {
                assert_eq!(look(&packet, is_local), Checksum::Unknown, "{protocol}");
            }
        }
    }
    let whole = four(17, 0x4000);
    assert_eq!(
        look(&whole, false),
        Checksum::LooksOpen,
        "DF is no fragment"
    );
}

#[test]
fn options_are_seen_in_both_families() {
    assert!(!parse(&ipv4(&[], &[0; 8])).unwrap().has_options());
    assert!(parse(&ipv4(&[1; 4], &[0; 8])).unwrap().has_options());
    assert!(!parse(&ipv6(60, &[0; 8])).unwrap().has_options());
    assert!(parse(&ipv6(0, &[0; 8])).unwrap().has_options());
}

#[test]
fn congestion_is_of_both_bits() {
    assert_eq!(
        [0, 1, 2, 3, 0xfc, 0xff].map(is_congested),
        [false, false, false, true, false, true]
    );
}

proptest! {
    /// As user space reads the same packet.
    #[test]
    fn agrees_with_user_space(
        packet in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..150),
            (0_u8..16, 0_usize..120).prop_map(|(words, len)| {
                let mut packet = ipv4(&[], &vec![7; len]);
                packet[0] = 0x40 | words;
                packet
            }),
            (any::<u8>(), any::<u8>(), 0_usize..120)
                .prop_map(|(next, first, len)| ipv6(next, &vec![first; len])),
            Just(ipv6(0, &[])),
            Just(ipv6(0, &[58, 0, 5, 2, 0, 0, 1, 0])),
        ],
        lie in prop_oneof![3 => Just(0_i16), 1 => any::<i16>()],
        cut in prop_oneof![3 => Just(0_usize), 1 => 0_usize..60],
    ) {
        let mut packet = packet;
        let at = match packet.first().map_or(0, |first| first >> 4) {
            4 => 2,
            _ => 4,
        };
        if let Some([a, b]) = packet.get_mut(at..at + 2) {
            let len = u16::from_be_bytes([*a, *b]).wrapping_add_signed(lie);
            [*a, *b] = len.to_be_bytes();
        }
        packet.truncate(packet.len().saturating_sub(cut));
        let (here, there) = (parse(&packet), IpHeader::parse(&packet));
        prop_assert_eq!(here.is_some(), there.is_ok());
        if let (Some(here), Ok(there)) = (here, there) {
            prop_assert_eq!(here.total_len, there.total_len);
            prop_assert_eq!(here.is_activity, there.counts_as_activity());
            prop_assert_eq!(here.source(&head(&packet)), address(there.src));
            prop_assert_eq!(here.destination(&head(&packet)), address(there.dst));
        }
    }

    /// Marks and checksums stay right, and nothing else changes.
    #[test]
    fn a_mark_and_a_hop_keep_an_ipv4_checksum_valid(
        words in prop::collection::vec(any::<u8>(), 20), options in 0_usize..=10,
    ) {
        let mut packet = ipv4(&vec![1; 4 * options], &[0; 8]);
        for at in [1, 4, 5, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19] {
            packet[at] = words[at];
        }
        finish(&mut packet);
        let len = 20 + 4 * options;
        let inner = parse(&packet).unwrap();
        let mut changed = head(&packet);
        prop_assert_eq!(inner.mark_congestion(&mut changed), packet[1] & 3 != 0);
        prop_assert_eq!(inner.decrement_ttl(&mut changed), packet[8] > 1);
        prop_assert_eq!(sum(&changed[..len]), 0xffff);
        let ecn = if packet[1] & 3 == 0 { packet[1] } else { packet[1] | 3 };
        let ttl = if packet[8] > 1 { packet[8] - 1 } else { packet[8] };
        packet[1] = ecn;
        packet[8] = ttl;
        packet[10..12].copy_from_slice(&changed[10..12]);
        prop_assert_eq!(changed, head(&packet));
    }

    #[test]
    fn a_packet_of_any_length_is_marked_as_its_head_is(
        is_ipv4 in any::<bool>(),
        class in any::<u8>(),
        len in 0_usize..200,
    ) {
        let mut packet = if is_ipv4 {
            ipv4(&[], &vec![7; len])
        } else {
            ipv6(17, &vec![7; len])
        };
        packet[1] = class;
        let mut expected = head(&packet);
        let marked = parse(&packet).unwrap().mark_congestion(&mut expected);
        let before = packet.clone();
        prop_assert_eq!(mark_congestion(&mut packet), marked);
        let looked_at = packet.len().min(INNER_HEAD);
        prop_assert_eq!(&packet[..looked_at], &expected[..looked_at]);
        prop_assert_eq!(&packet[looked_at..], &before[looked_at..]);
    }

    #[test]
    fn what_is_no_packet_cannot_be_marked(mut bytes in proptest::collection::vec(any::<u8>(), 0..19)) {
        let before = bytes.clone();
        prop_assert!(!mark_congestion(&mut bytes));
        prop_assert_eq!(bytes, before);
    }

    #[test]
    fn a_mark_and_a_hop_change_only_their_bits_of_ipv6(class in any::<u8>(), hops in any::<u8>()) {
        let mut packet = ipv6(17, &[0; 8]);
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | 5;
        packet[7] = hops;
        let inner = parse(&packet).unwrap();
        let mut changed = head(&packet);
        prop_assert_eq!(inner.mark_congestion(&mut changed), class & 3 != 0);
        prop_assert_eq!(inner.decrement_ttl(&mut changed), hops > 1);
        if class & 3 != 0 {
            packet[1] |= 0x30;
        }
        if hops > 1 {
            packet[7] -= 1;
        }
        prop_assert_eq!(changed, head(&packet));
    }
}
