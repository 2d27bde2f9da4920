//! Packets and frames, without checksums where the programs read none.

use std::net::Ipv4Addr;

/// Where the client is.
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Where the server listens.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The client's address in the tunnel.
pub const LEASE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);

const UDP: u8 = 17;
/// A protocol without a checksum that a device could have to complete.
const ESP: u8 = 50;
const HEADER: usize = 20;

/// An inner packet of `len` bytes in all.
pub fn inner(from: Ipv4Addr, to: Ipv4Addr, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - HEADER).map(|n| n as u8).collect();
    ip(from, to, ESP, &payload)
}

/// A frame from the client to the server.
pub fn frame((peer, local): (u16, u16), payload: &[u8]) -> Vec<u8> {
    /// Stands for a finished checksum.
    const CHECKSUM: u16 = 0x1234;
    let mut datagram = [peer, local, (8 + payload.len()) as u16, CHECKSUM]
        .map(u16::to_be_bytes)
        .concat();
    datagram.extend(payload);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend(ip(PEER, SERVER, UDP, &datagram));
    frame
}

fn ip(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = ((HEADER + payload.len()) as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, len[0], len[1], 0, 9, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}
