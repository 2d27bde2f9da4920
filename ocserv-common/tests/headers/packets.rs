//! Frames and sums, made without the code under test.

use ocserv_common::datagram::{HEAD, Head, NotOurs, Record, parse};
use ocserv_common::kernel::{Address, FlowKey};

/// The flow of [`ipv4`].
pub const FLOW4: FlowKey = FlowKey {
    peer: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 7],
    local: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 1],
    peer_port: [0x9c, 0x40],
    local_port: [1, 187],
};
/// The flow of [`ipv6`].
pub const FLOW6: FlowKey = FlowKey {
    peer: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    local: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    peer_port: [0x9c, 0x40],
    local_port: [1, 187],
};
/// Bytes behind the record header of [`record`].
pub const LENGTH: usize = 40;

/// A record of epoch 1, number 0x020304050607 in its lower bytes.
pub fn record() -> Vec<u8> {
    let mut bytes = vec![23, 0xfe, 0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 0, LENGTH as u8];
    bytes.extend([0xa5; LENGTH]);
    bytes
}

/// A datagram of the flows' ports without a checksum.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut bytes = vec![0x9c, 0x40, 1, 187, 0, 0, 0, 0];
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet of [`FLOW4`] with these options.
pub fn ipv4(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let len = (4 * words + payload.len()) as u16;
    let mut packet = vec![0x40 | words as u8, 0xb9, 0, 0, 0, 9, 0x40, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend(&FLOW4.peer[12..]);
    packet.extend(&FLOW4.local[12..]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet of [`FLOW6`]; `next` says what `payload` begins with.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut packet = vec![0x6b, 0x91, 0x23, 0x45, 0, 0, next, 64];
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet.extend(FLOW6.peer);
    packet.extend(FLOW6.local);
    packet.extend(payload);
    packet
}

/// A frame: `tags` are Ethernet types of VLAN tags.
pub fn frame(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0x20, 5]);
    }
    bytes.extend(match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    });
    bytes.extend(packet);
    bytes
}

/// The first bytes of a frame, in memory that held another one before.
pub fn head(frame: &[u8]) -> Head {
    let mut head = [0xee; HEAD];
    for (to, from) in head.iter_mut().zip(frame) {
        *to = *from;
    }
    head
}

/// What [`parse`] makes of a frame.
pub fn read(frame: &[u8]) -> Result<(Record, FlowKey), NotOurs> {
    let nobody = [0; 16];
    let mut flow = FlowKey {
        peer: nobody,
        local: nobody,
        peer_port: [0; 2],
        local_port: [0; 2],
    };
    let record = parse(&head(frame), frame.len(), 0, &mut flow)?;
    Ok((record, flow))
}

/// Ones' complement sum of bytes, word by word.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo header of both families in the longer form, which has the same sum.
pub fn pseudo_header(from: &Address, to: &Address, protocol: u8, len: usize) -> Vec<u8> {
    let part = |address: &Address| match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, rest @ ..] => rest.to_vec(),
        whole => whole.to_vec(),
    };
    let mut bytes = part(from);
    bytes.extend(part(to));
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}
