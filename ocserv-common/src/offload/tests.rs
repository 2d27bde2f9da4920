//! Both directions together.

use proptest::prelude::*;

use super::checksum::{fold, sum};
use super::coalesce::{Coalescer, Kind, MAX_PLANNED, Offers};
use super::samples::Sample;
use super::segment::{Malformed, Segmenter};
use super::super_packet::MAX_HEADERS;
use super::vnet::{
    DATA_VALID, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM, VNET_HEADER, VnetHeader,
};
use super::{MAX_SEGMENTS, MAX_SUPER_PACKET, put};

const PSH_ACK: u8 = 0x18;

/// What a device with `offers` would be given.
fn coalesced(packets: &[Vec<u8>], offers: Offers) -> Vec<(VnetHeader, Vec<u8>, usize)> {
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let mut coalescer = Coalescer::default();
    coalescer.plan(&packets, offers);
    let written = coalescer.groups().iter().map(|group| {
        let members: Vec<usize> = coalescer.members(group).collect();
        assert_eq!(members.len(), group.len());
        let mut headers = [0; MAX_HEADERS];
        let len = group.write_headers(packets[members[0]], &mut headers);
        let mut bytes = headers[VNET_HEADER..len].to_vec();
        for index in &members {
            bytes.extend(&packets[*index][group.headers_len()..]);
        }
        let header = VnetHeader::read(headers.first_chunk().unwrap());
        (header, bytes, members.len())
    });
    written.collect()
}

/// The packets of a super-packet.
fn segments(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut packet = packet.to_vec();
    let mut segmenter = Segmenter::new(header, &mut packet, MAX_SUPER_PACKET)?;
    let mut out = vec![0; MAX_SUPER_PACKET];
    let mut all = Vec::new();
    while let Some(len) = segmenter.next(&packet, &mut out) {
        all.push(out[..len].to_vec());
    }
    assert!(segmenter.is_done());
    Ok(all)
}

fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    let written = coalesced(packets, Offers::ALL);
    written.into_iter().map(|(_, _, count)| count).collect()
}

/// What comes back, by flow: packets of one destination port.
fn by_port(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut flows = vec![Vec::new(); 4];
    for packet in packets {
        let at = if packet[0] >> 4 == 4 { 23 } else { 43 };
        flows[usize::from(packet.get(at).copied().unwrap_or(0) & 3)].push(packet);
    }
    flows
}

/// Identifications of packets with DF mean nothing, and do not survive.
fn without_free_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        put(&mut packet, 4, &[0, 0]);
        put(&mut packet, 10, &[0, 0]);
    }
    packet
}

#[test]
fn a_run_of_tcp_data_is_one_super_packet() {
    for is_ipv4 in [true, false] {
        let first = Sample::new(is_ipv4, true, 80).payload(0, 1000);
        let second = first.next(1000);
        let mut last = second.next(10);
        last.flags = PSH_ACK;
        let packets: Vec<_> = [first, second, last].iter().map(Sample::bytes).collect();
        let written = coalesced(&packets, Offers::ALL);
        let [(header, bytes, 3)] = &written[..] else {
            panic!("{written:?}");
        };
        let (kind, network) = if is_ipv4 {
            (GSO_TCPV4, 20)
        } else {
            (GSO_TCPV6, 40)
        };
        assert_eq!((header.gso_type, header.gso_size), (kind, 1000));
        assert_eq!(header.header_len, network + 20);
        let checksum = (header.checksum_start, header.checksum_offset);
        assert_eq!((header.flags, checksum), (NEEDS_CHECKSUM, (network, 16)));
        assert_eq!(bytes.len(), usize::from(network) + 20 + 2010);
        assert_eq!(segments(header, bytes).unwrap(), packets);
    }
}

#[test]
fn what_ends_a_group() {
    let first = Sample::new(true, true, 80).payload(0, 100);
    let changed = |change: fn(&mut Sample)| {
        let mut second = first.next(100);
        change(&mut second);
        sizes(&[first.bytes(), second.bytes()])
    };
    assert_eq!(changed(|_| {}), [2]);
    let changes: [fn(&mut Sample); 11] = [
        |s| s.sequence += 1,
        |s| s.acknowledgement += 1,
        |s| s.window += 1,
        |s| s.tos = 3,
        |s| s.ttl -= 1,
        |s| s.dont_fragment = false,
        |s| s.flags = 0x11,
        |s| s.flags = 0x90,
        |s| s.options = vec![1, 1, 1, 1],
        |s| s.payload = vec![0; 101],
        |s| s.payload = Vec::new(),
    ];
    for change in changes {
        assert_eq!(changed(change), [1, 1]);
    }
    let (mut push, mut short) = (first.clone(), first.next(99));
    push.flags = PSH_ACK;
    assert_eq!(sizes(&[push.bytes(), first.next(100).bytes()]), [1, 1]);
    short.flags = PSH_ACK;
    let after = short.next(99);
    assert_eq!(
        sizes(&[first.bytes(), short.bytes(), after.bytes()]),
        [2, 1]
    );
}

#[test]
fn identifications_must_count_up_where_fragments_are_possible() {
    let mut first = Sample::new(true, false, 53).payload(0, 100);
    first.dont_fragment = false;
    let mut same = first.next(100);
    assert_eq!(sizes(&[first.bytes(), same.bytes()]), [2]);
    same.id = first.id;
    assert_eq!(sizes(&[first.bytes(), same.bytes()]), [1, 1]);
}

#[test]
fn a_datagram_without_checksum_goes_alone() {
    let first = Sample::new(true, false, 53).payload(0, 100);
    let mut second = first.next(100).bytes();
    assert_eq!(sizes(&[first.bytes(), second.clone()]), [2]);
    put(&mut second, 26, &[0, 0]);
    assert_eq!(sizes(&[first.bytes(), second]), [1, 1]);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for at in [12, 30, 60] {
        let samples: Vec<_> = (0..3)
            .scan(Sample::new(true, true, 80).payload(0, 100), |sample, _| {
                let this = sample.clone();
                *sample = sample.next(100);
                Some(this.bytes())
            })
            .collect();
        for damaged in 0..3 {
            let mut packets = samples.clone();
            packets[damaged][at] ^= 1;
            let written = coalesced(&packets, Offers::ALL);
            let alone = written.iter().filter(|(_, _, count)| *count == 1);
            let mut bytes = alone.map(|(_, bytes, _)| bytes);
            assert!(bytes.any(|bytes| *bytes == packets[damaged]));
        }
    }
}

#[test]
fn a_fragment_keeps_its_place_among_its_hosts_packets() {
    let first = Sample::new(true, false, 53).payload(0, 100);
    let mut fragment = first.next(100).bytes();
    put(&mut fragment, 6, &[0x20, 0]);
    let third = first.next(100).next(100);
    let other = Sample::new(false, false, 53).payload(0, 10);
    let packets = [
        first.bytes(),
        other.bytes(),
        fragment,
        third.bytes(),
        other.next(10).bytes(),
    ];
    assert_eq!(sizes(&packets), [1, 2, 1, 1]);
}

#[test]
fn a_super_packet_has_bounds() {
    let run = |payload: usize, count: usize| {
        let mut sample = Sample::new(false, true, 80).payload(0, payload);
        let packets = (0..count).map(|_| {
            let bytes = sample.bytes();
            sample = sample.next(payload);
            bytes
        });
        sizes(&packets.collect::<Vec<_>>())
    };
    assert_eq!(run(1, MAX_SEGMENTS + 3), [MAX_SEGMENTS, 3]);
    assert_eq!(run(1440, 50), [45, 5]);
    assert_eq!(run(1, MAX_PLANNED), [MAX_SEGMENTS; 4]);
}

#[test]
fn only_what_is_offered_is_made() {
    for (is_ipv4, is_tcp, kind) in [
        (true, true, Kind::TcpV4),
        (false, true, Kind::TcpV6),
        (true, false, Kind::Udp),
        (false, false, Kind::Udp),
    ] {
        let first = Sample::new(is_ipv4, is_tcp, 80).payload(0, 100);
        let packets = [first.bytes(), first.next(100).bytes()];
        let mut offers = Offers::ALL;
        assert_eq!(coalesced(&packets, offers).len(), 1);
        offers.give_up(kind);
        assert_eq!(coalesced(&packets, offers).len(), 2);
    }
}

/// Frozen: what Linux 6.18 makes of this super-packet (`a_tun_device_cuts_as_we_do` holds the rest
/// against the kernel).
#[test]
fn flags_are_shared_out_as_the_kernel_does() {
    let mut sample = Sample::new(true, true, 80).payload(0, 25);
    sample.flags = 0x99; // CWR, ACK, PSH, FIN
    let mut packet = sample.bytes();
    let pseudo = super::checksum::pseudo_header(&packet[12..20], 6, 45);
    put(
        &mut packet,
        36,
        &super::checksum::fold(pseudo).to_be_bytes(),
    );
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: GSO_TCPV4 | GSO_ECN,
        header_len: 45,
        gso_size: 10,
        checksum_start: 20,
        checksum_offset: 16,
    };
    let all = segments(&header, &packet).unwrap();
    let heads: Vec<String> = all
        .iter()
        .map(|packet| hex::encode(&packet[..40]))
        .collect();
    let flags: Vec<u8> = all.iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
    let ids: Vec<&str> = heads.iter().map(|head| &head[4..12]).collect();
    assert_eq!(ids, ["0032fffe", "0032ffff", "002d0000"]);
    let sequences: Vec<&str> = heads.iter().map(|head| &head[48..56]).collect();
    assert_eq!(sequences, ["ffffff00", "ffffff0a", "ffffff14"]);
    assert!(all.iter().all(|packet| super::flow::checksums_hold(packet)));
}

#[test]
fn lies_about_a_super_packet_are_refused() {
    let first = Sample::new(true, true, 80).payload(0, 100);
    let written = coalesced(&[first.bytes(), first.next(50).bytes()], Offers::ALL);
    let (good, bytes, _) = &written[0];
    assert_eq!(segments(good, bytes).unwrap().len(), 2);
    let lies: [fn(&mut VnetHeader); 9] = [
        |h| h.gso_size = 0,
        |h| h.gso_type = 3,
        |h| h.gso_type = 0x7f,
        |h| h.gso_type = GSO_TCPV6,
        |h| h.gso_type = GSO_UDP_L4,
        |h| h.flags = 0,
        |h| h.checksum_start = 24,
        |h| h.checksum_start = 0xffff,
        |h| h.checksum_offset = 6,
    ];
    for lie in lies {
        let mut header = *good;
        lie(&mut header);
        assert_eq!(segments(&header, bytes), Err(Malformed), "{header:?}");
    }
    for (at, value) in [
        (0, 0x65),
        (0, 0x4f),
        (3, 0),
        (6, 0x20),
        (9, 17),
        (32, 0x40),
        (32, 0xf0),
    ] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        let bytes = if at == 32 && value == 0xf0 {
            &bytes[..60]
        } else {
            &bytes[..]
        };
        assert_eq!(segments(good, bytes), Err(Malformed), "{at}");
    }
    let mut bytes = bytes.clone();
    assert!(Segmenter::new(good, &mut bytes, 139).is_err());
    assert!(Segmenter::new(good, &mut bytes, 140).is_ok());
}

#[test]
fn a_checksum_left_to_the_device_is_completed() {
    for (is_ipv4, is_tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let right = Sample::new(is_ipv4, is_tcp, 80).payload(1, 33).bytes();
        let (start, addresses) = if is_ipv4 { (20, 12..20) } else { (40, 8..40) };
        let (protocol, offset) = if is_tcp { (6, 16) } else { (17, 6) };
        let len = right.len() - start;
        let pseudo = super::checksum::pseudo_header(&right[addresses], protocol, len);
        let mut open = right.clone();
        let pseudo = super::checksum::fold(pseudo);
        put(&mut open, start + offset, &pseudo.to_be_bytes());
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            checksum_start: start as u16,
            checksum_offset: offset as u16,
            ..VnetHeader::default()
        };
        assert_eq!(segments(&header, &open).unwrap(), [right]);
        let beyond = VnetHeader {
            checksum_offset: len as u16 - 1,
            ..header
        };
        assert_eq!(segments(&beyond, &open), Err(Malformed));
    }
}

#[test]
fn extension_headers_are_part_of_each_segment() {
    let mut sample = Sample::new(false, true, 80).payload(0, 30);
    sample.flags = PSH_ACK;
    let plain = sample.bytes();
    let mut packet = plain[..40].to_vec();
    packet.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend(&plain[40..]);
    put(&mut packet, 4, &[0, 58]);
    put(&mut packet, 6, &[0]);
    let pseudo = super::checksum::pseudo_header(&packet[8..40], 6, 50);
    put(
        &mut packet,
        64,
        &super::checksum::fold(pseudo).to_be_bytes(),
    );
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: GSO_TCPV6,
        header_len: 68,
        gso_size: 20,
        checksum_start: 48,
        checksum_offset: 16,
    };
    let all = segments(&header, &packet).unwrap();
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [88, 78]);
    for segment in all {
        let mut without = segment[..40].to_vec();
        without.extend(&segment[48..]);
        put(&mut without, 6, &[6]);
        assert!(super::flow::checksums_hold(&without));
    }
}

/// A packet that may or may not follow the last one of its flow.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    len: usize,
    change: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(40usize), Just(40), Just(40), Just(1400), 0usize..60];
    (0usize..4, len, any::<u8>()).prop_map(|(flow, len, change)| Step { flow, len, change })
}

fn build(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut flows: Vec<Sample> = (0..4)
        .map(|flow| Sample::new(flow & 1 == 0, flow & 2 == 0, flow as u16))
        .collect();
    let packets = steps.iter().map(|Step { flow, len, change }| {
        let mut sample = flows[*flow].next(*len);
        match change {
            0..10 => sample.flags = PSH_ACK,
            10..15 => sample.flags = 0x11,
            15..20 => sample.tos ^= 3,
            20..25 => sample.options = vec![1, 1, 8, 10, 0, 0, 0, *change, 0, 0, 0, 1],
            25..30 => sample.sequence ^= 0x100,
            30..35 => sample.dont_fragment ^= true,
            35..40 => sample.window ^= 1,
            40..45 => sample.id ^= 0x55,
            _ => {}
        }
        let mut bytes = sample.bytes();
        match change {
            45..55 => {
                let last = bytes.len() - 1;
                bytes[last] ^= 0x10;
            }
            55..60 => bytes.push(0),
            60..65 if *flow & 1 == 0 => put(&mut bytes, 6, &[0x20, 0]),
            _ => {}
        }
        sample.flags = 0x10;
        flows[*flow] = sample;
        bytes
    });
    packets.collect()
}

proptest! {
    #[test]
    fn cutting_gives_back_what_was_put_together(
        steps in proptest::collection::vec(step(), 0..MAX_PLANNED),
    ) {
        let packets = build(&steps);
        let mut back = Vec::new();
        for (header, bytes, count) in coalesced(&packets, Offers::ALL) {
            prop_assert!(bytes.len() <= MAX_SUPER_PACKET && count <= MAX_SEGMENTS);
            let all = segments(&header, &bytes).unwrap();
            prop_assert_eq!(all.len(), count);
            back.extend(all);
        }
        let back = by_port(back.into_iter().map(without_free_id));
        let packets = by_port(packets.into_iter().map(without_free_id));
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn any_bytes_are_cut_or_refused(
        header in any::<[u8; VNET_HEADER]>(),
        gso in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        mut packet in proptest::collection::vec(any::<u8>(), 0..300),
        honest in any::<bool>(),
    ) {
        let mut header = VnetHeader::read(&header);
        header.gso_type = gso;
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        if honest && packet.len() >= 60 {
            let len = packet.len() as u16;
            put(&mut packet, 2, &len.to_be_bytes());
            put(&mut packet, 6, &[0, 0, 64, if gso == 5 { 17 } else { 6 }]);
            header.flags = NEEDS_CHECKSUM;
            header.checksum_start = 20;
            header.checksum_offset = if gso == 5 { 6 } else { 16 };
        }
        let _ = segments(&header, &packet);
    }

    #[test]
    fn a_whole_checksum_is_held_against_the_packet_unless_the_device_did(
        (is_ipv4, is_tcp) in any::<(bool, bool)>(),
        (len, count) in (1usize..700, 2usize..5),
        (at, bit) in (any::<prop::sample::Index>(), 0u8..8),
    ) {
        let first = Sample::new(is_ipv4, is_tcp, 80).payload(0, len);
        let packets: Vec<_> = std::iter::successors(Some(first), |last| Some(last.next(len)))
            .take(count)
            .map(|sample| sample.bytes())
            .collect();
        let written = coalesced(&packets, Offers::ALL);
        let [(header, open, _)] = &written[..] else {
            panic!("{written:?}");
        };
        // As whole as the packet, which the segments' own checksums are not.
        let mut whole = open.clone();
        let (start, offset) = (header.checksum_start, header.checksum_offset);
        let checksum = match !fold(sum(&whole[start.into()..])) {
            0 if !is_tcp => 0xffff,
            other => other,
        };
        put(&mut whole, (start + offset).into(), &checksum.to_be_bytes());
        let with = |flags| VnetHeader { flags, checksum_start: 0, checksum_offset: 0, ..*header };
        prop_assert_eq!(segments(&with(0), &whole), Ok(packets.clone()));
        prop_assert_eq!(segments(&with(DATA_VALID), &whole), Ok(packets));
        let place = usize::from(start) + at.index(whole.len() - usize::from(start));
        whole[place] ^= 1u8 << bit;
        prop_assert_eq!(segments(&with(0), &whole), Err(Malformed));
    }

    #[test]
    fn any_packets_pass_in_order(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..40),
    ) {
        let written = coalesced(&packets, Offers::ALL);
        let all: Vec<_> = written.into_iter().map(|(_, bytes, _)| bytes).collect();
        prop_assert_eq!(all, packets);
    }
}
