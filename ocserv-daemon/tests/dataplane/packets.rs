//! Bytes that clients send.

use std::net::{IpAddr, SocketAddr};

/// An IPv4 UDP packet from port 4096 of `source`, without a UDP checksum.
pub fn udp_packet(source: IpAddr, target: SocketAddr, text: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), SocketAddr::V4(target)) = (source, target) else {
        panic!("IPv4 only");
    };
    let len = u16::try_from(28 + text.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(target.ip().octets());
    let words = packet.as_chunks::<2>().0.iter();
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(4096u16.to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(text);
    packet
}

/// A ClientHello with `app_id` as its session id.
pub fn client_hello(app_id: &[u8; 32]) -> Vec<u8> {
    let mut body = vec![0xfe, 0xfd];
    body.extend([7; 32]);
    body.push(32);
    body.extend(app_id);
    body.push(0);
    body.extend([0, 2, 0x00, 0xa9]);
    body.extend([1, 0]);
    let len = body.len() as u8;
    let mut record = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, len + 12];
    record.extend([1, 0, 0, len, 0, 0, 0, 0, 0, 0, 0, len]);
    record.extend(body);
    record
}
