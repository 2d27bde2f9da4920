//! Super-packets.

use std::collections::BTreeMap;

use ocserv_common::offload::coalesce::{Coalescer, MAX_PLANNED, Offers};
use ocserv_common::offload::segment::Segmenter;
use ocserv_common::offload::super_packet::MAX_HEADERS;
use ocserv_common::offload::vnet::{GSO_NONE, VNET_HEADER, VnetHeader};
use ocserv_common::offload::{MAX_SEGMENTS, MAX_SUPER_PACKET};

use crate::input::Reader;

/// Room for a segment.
const ROOM: usize = 2048;

/// First byte even: a packet with its header, whose segments have all of its payload. Odd: packets,
/// which are what they were when they have been put together and cut again.
pub fn offload(data: &[u8]) {
    match data.split_first() {
        Some((kind, rest)) if kind & 1 == 0 => cut(rest),
        Some((_, rest)) => put_together(&packets(rest)),
        None => {}
    }
}

fn cut(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<VNET_HEADER>() else {
        return;
    };
    let header = VnetHeader::read(header);
    assert_eq!(VnetHeader::read(&header.to_bytes()), header);
    let Some(all) = segments(&header, packet, ROOM) else {
        return;
    };
    let [others @ .., last] = &all[..] else {
        assert!(packet.is_empty());
        return;
    };
    if others.is_empty() {
        assert_eq!(last.len(), packet.len());
        return;
    }
    assert_ne!(header.gso_type, GSO_NONE);
    // What the segments have more than the packet are repeated headers.
    let total: usize = all.iter().map(Vec::len).sum();
    let headers = (total - packet.len()) / others.len();
    let payload = all.iter().flat_map(|segment| &segment[headers..]);
    assert!(payload.eq(&packet[headers..]));
    let len = headers + usize::from(header.gso_size);
    assert!(last.len() <= len && others.iter().all(|segment| segment.len() == len));
}

/// `None`: refused.
fn segments(header: &VnetHeader, packet: &[u8], room: usize) -> Option<Vec<Vec<u8>>> {
    let mut packet = packet.to_vec();
    let mut segmenter = Segmenter::new(header, &mut packet, room).ok()?;
    let mut buffer = vec![0; room];
    let mut all = Vec::new();
    while let Some(len) = segmenter.next(&packet, &mut buffer) {
        all.push(buffer[..len].to_vec());
    }
    assert!(segmenter.is_done());
    Some(all)
}

/// Each with its length before it, two bytes, of which the highest bit asks for right checksums.
fn packets(data: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader(data);
    let mut packets = Vec::new();
    while !reader.0.is_empty() && packets.len() < MAX_PLANNED {
        let word = u16::from_be_bytes(reader.array());
        let mut packet = reader.bytes(usize::from(word & 0x7ff)).to_vec();
        if word & 0x8000 != 0 {
            put_checksums(&mut packet);
        }
        packets.push(packet);
    }
    packets
}

fn put_together(packets: &[Vec<u8>]) {
    let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let mut coalescer = Coalescer::default();
    coalescer.plan(&slices, Offers::ALL);
    let mut back = Vec::new();
    for group in coalescer.groups() {
        let members: Vec<&[u8]> = coalescer.members(group).map(|at| slices[at]).collect();
        let mut headers = [0; MAX_HEADERS];
        let len = group.write_headers(members[0], &mut headers);
        let mut bytes = headers[..len].to_vec();
        for packet in &members {
            bytes.extend(&packet[group.headers_len()..]);
        }
        let (header, packet) = bytes.split_first_chunk::<VNET_HEADER>().expect("a header");
        assert!(packet.len() <= MAX_SUPER_PACKET && members.len() <= MAX_SEGMENTS);
        let cut = segments(&VnetHeader::read(header), packet, MAX_SUPER_PACKET).expect("sound");
        assert!(packet.is_empty() || cut.len() == members.len());
        back.extend(cut);
    }
    assert_eq!(by_flow(back.iter()), by_flow(packets.iter()));
}

/// The packets of each flow in order. Empty ones are of none.
fn by_flow<'a>(
    packets: impl Iterator<Item = &'a Vec<u8>>,
) -> BTreeMap<Vec<Option<u8>>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets.filter(|packet| !packet.is_empty()) {
        let is_ipv4 = packet[0] >> 4 == 4;
        let (protocol, addresses) = if is_ipv4 { (9, 12..24) } else { (6, 8..44) };
        let mut flow = vec![Some(packet[0] >> 4), packet.get(protocol).copied()];
        flow.extend(addresses.map(|at| packet.get(at).copied()));
        let mut packet = packet.clone();
        if is_ipv4 && packet.len() >= 20 && packet[6] & 0x40 != 0 {
            // With DF, the identification means nothing and may change.
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        flows.entry(flow).or_default().push(packet);
    }
    flows
}

/// By words, as RFC 1071 has it.
fn checksum(bytes: impl Iterator<Item = u8>) -> [u8; 2] {
    let bytes: Vec<u8> = bytes.collect();
    let sum = bytes.chunks(2).fold(0_u32, |sum, pair| {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        let sum = sum + u32::from(u16::from_be_bytes(word));
        (sum & 0xffff) + (sum >> 16)
    });
    (!(sum as u16)).to_be_bytes()
}

/// Of TCP or UDP right behind an IP header without options.
fn put_checksums(packet: &mut [u8]) {
    let (network, protocol, addresses) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 40 => (20, packet[9], 12..20),
        Some(6) if packet.len() >= 60 => (40, packet[6], 8..40),
        _ => return,
    };
    if network == 20 {
        packet[10..12].fill(0);
        let header = checksum(packet[..20].iter().copied());
        packet[10..12].copy_from_slice(&header);
    }
    let field = network + if protocol == 6 { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let len = ((packet.len() - network) as u32).to_be_bytes();
    let pseudo = packet[addresses].iter().copied().chain(len);
    let pseudo = pseudo.chain([0, 0, 0, protocol]);
    let value = checksum(pseudo.chain(packet[network..].iter().copied()));
    packet[field..field + 2].copy_from_slice(&value);
}
