//! `ocserv_common::datagram`.

use ocserv_common::datagram::{NotOurs, network_header};
use proptest::prelude::*;

use crate::packets::{
    FLOW4, FLOW6, LENGTH, frame, head, ipv4, ipv6, pseudo_header, read, record, sum, udp,
};

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

fn plain4() -> Vec<u8> {
    frame(&[], &ipv4(&[], &udp(&record())))
}

fn plain6() -> Vec<u8> {
    frame(&[], &ipv6(17, &udp(&record())))
}

/// `count` extension headers of this kind and 8 bytes, then the datagram.
fn extended(kind: u8, count: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for n in 1..=count {
        let next = if n == count { 17 } else { kind };
        payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(udp(&record()));
    frame(&[], &ipv6(kind, &payload))
}

#[test]
fn a_record_is_found_in_both_families() {
    for (bytes, flow, offset) in [(plain4(), FLOW4, 42), (plain6(), FLOW6, 62)] {
        let (record, found) = read(&bytes).unwrap();
        assert_eq!(found, flow);
        assert_eq!((record.offset, record.length), (offset, LENGTH));
        assert_eq!((record.epoch, record.sequence), (1, 0x0203_0405_0607));
        assert_eq!(record.tos, 0xb9);
    }
}

#[test]
fn up_to_two_vlan_tags_are_skipped() {
    for (tags, more) in [(&[VLAN][..], 4), (&[QINQ, VLAN], 8), (&[VLAN, VLAN], 8)] {
        let four = read(&frame(tags, &ipv4(&[], &udp(&record())))).unwrap();
        assert_eq!((four.0.offset, four.1), (42 + more, FLOW4));
        let six = read(&frame(tags, &ipv6(17, &udp(&record())))).unwrap();
        assert_eq!((six.0.offset, six.1), (62 + more, FLOW6));
    }
    let three = frame(&[QINQ, VLAN, VLAN], &ipv4(&[], &udp(&record())));
    assert_eq!(network_header(&head(&three)), (VLAN, 22));
    assert_eq!(read(&three), Err(NotOurs::Other));
}

#[test]
fn ipv4_options_are_skipped() {
    for words in 1..=10 {
        let bytes = frame(&[], &ipv4(&vec![1; 4 * words], &udp(&record())));
        assert_eq!(read(&bytes).unwrap().0.offset, 42 + 4 * words);
    }
}

#[test]
fn known_extension_headers_are_skipped() {
    for kind in [0, 43, 60] {
        for count in 1..=4 {
            let (record, flow) = read(&extended(kind, count)).unwrap();
            assert_eq!((record.offset, flow), (62 + 8 * count, FLOW6));
        }
        assert_eq!(read(&extended(kind, 5)), Err(NotOurs::Form));
    }
    for kind in [50, 51, 58, 59, 135] {
        assert_eq!(read(&extended(kind, 1)), Err(NotOurs::Other), "{kind}");
    }
}

#[test]
fn an_extension_header_beyond_the_head_is_not_followed() {
    for units in [12, 13, 100, 255] {
        let mut payload = vec![17, units, 1, 4, 0, 0, 0, 0];
        payload.resize(8 * (usize::from(units) + 1), 0);
        payload.extend(udp(&record()));
        let bytes = frame(&[], &ipv6(60, &payload));
        assert_eq!(read(&bytes), Err(NotOurs::Form), "{units}");
    }
}

#[test]
fn of_fragments_the_first_is_read() {
    for word in [0x2001_u16, 0x0001, 0x1fff, 0x8000, 0xa000] {
        let mut bytes = plain4();
        bytes[20..22].copy_from_slice(&word.to_be_bytes());
        assert_eq!(read(&bytes), Err(NotOurs::Form), "{word:x}");
    }
    for word in [0x2000_u16, 0x6000] {
        let mut bytes = plain4();
        bytes[20..22].copy_from_slice(&word.to_be_bytes());
        let whole = read(&plain4()).unwrap();
        let (record, flow) = read(&bytes).unwrap();
        assert!(record.is_fragment && !whole.0.is_fragment);
        assert_eq!(flow, whole.1);
    }
    let six = |offset| {
        let mut payload = vec![17, 0, 0, offset, 0, 0, 0, 1];
        payload.extend(udp(&record()));
        frame(&[], &ipv6(44, &payload))
    };
    for offset in [8, 9, 0xf8] {
        assert_eq!(read(&six(offset)), Err(NotOurs::Form));
    }
    for offset in [0, 1] {
        let (record, flow) = read(&six(offset)).unwrap();
        assert!(record.is_fragment);
        assert_eq!((record.offset, flow), (70, FLOW6));
    }
}

#[test]
fn a_first_fragment_has_the_headers_and_not_all_that_they_tell_of() {
    const HEADERS: usize = 8 + 13;
    let datagram = udp(&record());
    for len in 0..=datagram.len() {
        let mut bytes = frame(&[], &ipv4(&[], &datagram[..len]));
        bytes[20..22].copy_from_slice(&0x2000_u16.to_be_bytes());
        match read(&bytes) {
            Ok((record, _)) => assert!(len >= HEADERS && record.is_fragment),
            Err(error) => assert_eq!((error, len < HEADERS), (NotOurs::Form, true)),
        }
    }
}

#[test]
fn lengths_that_do_not_agree_are_left_alone() {
    let len = plain4().len();
    // IP total length and payload length, UDP length, record length.
    let too_long: [(Vec<u8>, usize); 6] = [
        (plain4(), 38),
        (plain6(), 58),
        (plain4(), 42 + 11),
        (plain6(), 62 + 11),
        (plain4(), 16),
        (plain6(), 18),
    ];
    for (frame, at) in too_long {
        let right = u16::from_be_bytes([frame[at], frame[at + 1]]);
        for wrong in [0, 7, 8, right - 1] {
            let mut bytes = frame.clone();
            bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            assert_eq!(read(&bytes), Err(NotOurs::Form), "{wrong} at {at}");
        }
        let is_ip = at < 20;
        for wrong in [right + 1, u16::MAX] {
            let mut bytes = frame.clone();
            bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            let result = read(&bytes);
            assert_eq!(result.is_ok(), is_ip, "{wrong} at {at}, {len}");
        }
    }
    let mut bytes = plain4();
    for first in 0x40..0x45 {
        bytes[14] = first;
        assert_eq!(read(&bytes), Err(NotOurs::Form));
    }
}

#[test]
fn a_frame_that_is_cut_off_anywhere_is_left_alone() {
    for bytes in [plain4(), plain6(), extended(60, 2)] {
        for len in 0..bytes.len() {
            // The memory still holds what was there before: the whole frame.
            let mut flow = FLOW4;
            let result = ocserv_common::datagram::parse(&head(&bytes), len, 0, &mut flow);
            assert!(result.is_err(), "{len}");
            assert!(read(&bytes[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn padding_of_short_frames_is_not_part_of_the_record() {
    for mut bytes in [plain4(), plain6()] {
        let whole = read(&bytes).unwrap();
        bytes.extend([0; 46]);
        assert_eq!(read(&bytes).unwrap(), whole);
    }
}

#[test]
fn a_checksum_that_a_device_was_to_complete_is_told() {
    for (mut bytes, flow, at) in [(plain4(), FLOW4, 40), (plain6(), FLOW6, 60)] {
        let len = 8 + 13 + LENGTH;
        let open = sum(&pseudo_header(&flow.peer, &flow.local, 17, len));
        bytes[at..at + 2].copy_from_slice(&open.to_be_bytes());
        assert!(read(&bytes).unwrap().0.has_open_checksum);
        bytes[at..at + 2].copy_from_slice(&(open ^ 1).to_be_bytes());
        assert!(!read(&bytes).unwrap().0.has_open_checksum);
    }
}

#[test]
fn merged_datagrams_show_their_first_record() {
    let payload = [record(), record(), record()].concat();
    for bytes in [
        frame(&[], &ipv4(&[], &udp(&payload))),
        frame(&[], &ipv6(17, &udp(&payload))),
    ] {
        let mut flow = FLOW4;
        let head = head(&bytes);
        let mut parse =
            |segment| ocserv_common::datagram::parse(&head, bytes.len(), segment, &mut flow);
        assert_eq!(parse(record().len()).unwrap().length, LENGTH);
        // Of two records each, or none that fits.
        for segment in [2 * record().len(), record().len() - 1] {
            assert_eq!(parse(segment), Err(NotOurs::Form));
        }
    }
}

#[test]
fn other_traffic_is_none_of_ours() {
    let mut tcp = plain4();
    tcp[23] = 6;
    let mut arp = plain4();
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut version = plain4();
    version[14] = 0x65;
    let mut six = plain6();
    six[14] = 0x45;
    let mut dns = plain4();
    dns[43] = 3;
    for bytes in [tcp, arp, version, six, dns] {
        assert_eq!(read(&bytes), Err(NotOurs::Other));
    }
}

#[test]
fn other_records_are_control() {
    for kind in (0..=255).filter(|kind| *kind != 23) {
        let mut bytes = plain4();
        bytes[42] = kind;
        assert_eq!(read(&bytes), Err(NotOurs::Control));
    }
}

#[test]
fn several_records_in_a_datagram_are_left_alone() {
    let payload = [record(), record()].concat();
    let bytes = frame(&[], &ipv4(&[], &udp(&payload)));
    assert_eq!(read(&bytes), Err(NotOurs::Form));
}

proptest! {
    /// What is found lies within the frame.
    #[test]
    fn arbitrary_frames_never_lead_outside(
        base in 0_usize..4,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((0_usize..90, any::<u8>()), 0..4),
    ) {
        let mut frame = [plain4(), plain6(), extended(0, 3), bytes][base].clone();
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok((record, _)) = read(&frame) {
            prop_assert!(record.offset + 13 + record.length <= frame.len());
            prop_assert_eq!(frame[record.offset], 23);
            prop_assert!(record.sequence < 1 << 48);
        }
    }
}
