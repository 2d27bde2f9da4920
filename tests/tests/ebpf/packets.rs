//! Packets and frames.

use std::net::{IpAddr, SocketAddr};

use ocserv_proto::dtls::DtlsChannel;

use crate::bed::client_channel;

/// The Ethernet header of frames from clients, without the type.
pub const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// An inner UDP packet of `len` bytes in all.
pub fn inner(from: &str, to: &str, len: usize) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let header = if from.is_ipv4() { 20 } else { 40 };
    let payload: Vec<u8> = (0..len - header - 8).map(|n| n as u8).collect();
    ip(from, to, 17, &udp(from, to, 5000, 53, &payload), 0)
}

/// A UDP datagram with its checksum.
pub fn udp(from: IpAddr, to: IpAddr, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut bytes = [source, destination, len, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    let sum = checksum(&[&pseudo_header(from, to, 17, len)[..], &bytes].concat());
    bytes[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    bytes
}

/// The pseudo header of a checksum, of even length.
pub fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: u16) -> Vec<u8> {
    let mut bytes = octets(from);
    bytes.extend(octets(to));
    bytes.extend([0, protocol]);
    bytes.extend(len.to_be_bytes());
    bytes
}

/// An IP packet of the addresses' family.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8], tos: u8) -> Vec<u8> {
    let mut packet = if from.is_ipv4() {
        let len = (20 + payload.len()) as u16;
        let mut header = vec![0x45, tos, 0, 0, 0, 9, 0, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header.extend(octets(from));
        header.extend(octets(to));
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    } else {
        let mut header = vec![0x60 | tos >> 4, tos << 4, 0, 0, 0, 0, protocol, 64];
        header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        header.extend(octets(from));
        header.extend(octets(to));
        header
    };
    packet.extend(payload);
    packet
}

/// The Internet checksum of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A record of application data.
pub fn record(client: &DtlsChannel, sequence: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; payload.len() + client.overhead()];
    let len = client.seal(sequence, kind, payload, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// The client: its keys and its next sequence number.
pub struct Client {
    /// Its keys.
    pub channel: DtlsChannel,
    /// Next number.
    pub sequence: u64,
}

impl Client {
    /// With the keys of a seed.
    pub fn new(seed: u8) -> Self {
        Self {
            channel: client_channel(seed),
            sequence: 1,
        }
    }

    /// A record with the next number.
    pub fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        record(&self.channel, self.sequence - 1, kind, payload)
    }

    /// A frame with an inner packet. Once in 65,536 a checksum looks as if a device was to complete it,
    /// and programs leave such a frame: another number makes another checksum.
    pub fn frame(&mut self, flow: (&str, &str), packet: &[u8]) -> Vec<u8> {
        loop {
            let bytes = frame(flow, &self.record(0, packet));
            if !has_open_checksum(flow, &bytes) {
                return bytes;
            }
        }
    }
}

/// An inner ICMP packet without its checksum, header included `len` bytes long.
pub fn bare(from: &str, to: &str, len: usize) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let header = if from.is_ipv4() { 20 } else { 40 };
    let payload: Vec<u8> = (header..len).map(|n| n as u8).collect();
    let icmp = if from.is_ipv4() { 1 } else { 58 };
    ip(from, to, icmp, &payload, 0)
}

/// A frame from the client with a datagram.
pub fn frame((peer, local): (&str, &str), payload: &[u8]) -> Vec<u8> {
    let (peer, local): (SocketAddr, SocketAddr) = (peer.parse().unwrap(), local.parse().unwrap());
    let datagram = udp(peer.ip(), local.ip(), peer.port(), local.port(), payload);
    ethernet(&ip(peer.ip(), local.ip(), 17, &datagram, 0))
}

/// Whether the UDP checksum is only the sum of the pseudo header.
fn has_open_checksum((peer, local): (&str, &str), frame: &[u8]) -> bool {
    let (peer, local): (SocketAddr, SocketAddr) = (peer.parse().unwrap(), local.parse().unwrap());
    let udp = if peer.is_ipv4() { 34 } else { 54 };
    let len = (frame.len() - udp) as u16;
    let open = !checksum(&pseudo_header(peer.ip(), local.ip(), 17, len));
    frame[udp + 6..udp + 8] == open.to_be_bytes()
}

/// An Ethernet frame with an IP packet.
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 {
        [8, 0]
    } else {
        [0x86, 0xdd]
    };
    [&MACS[..], &kind, packet].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
