//! Inner packets: UDP and TCP over IPv4 with right checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of both headers of UDP.
pub const HEADERS: usize = IPV4 + UDP;
/// Bytes of both headers of TCP.
pub const TCP_HEADERS: usize = IPV4 + TCP;
/// What every payload consists of.
pub const FILLER: u8 = 0x5a;

const IPV4: usize = 20;
const UDP: usize = 8;
const TCP: usize = 20;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_TCP: u8 = 6;
/// Where the checksums stand.
const UDP_SUM: usize = 6;
const TCP_SUM: usize = 16;

/// A datagram of `size` bytes, headers included.
///
/// # Panics
/// If the headers do not fit.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, size: usize) -> Vec<u8> {
    stamped(from, to, size, |_| ())
}

/// The same, with a payload that `stamp` writes over the filler.
///
/// # Panics
/// As [`udp`].
pub fn stamped(
    from: SocketAddrV4,
    to: SocketAddrV4,
    size: usize,
    stamp: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut body = from.port().to_be_bytes().to_vec();
    body.extend(to.port().to_be_bytes());
    body.extend(((size - IPV4) as u16).to_be_bytes());
    body.extend([0, 0]);
    body.resize(size - IPV4, FILLER);
    stamp(&mut body[UDP..]);
    with_header(PROTOCOL_UDP, 0, from, to, body, UDP_SUM)
}

/// A segment of `size` bytes, headers included, in the middle of a connection: the one with this number.
/// Its identification counts up, as that of a host's TCP does; where all are equal, the kernel merges
/// segments, but cuts them again before a device that does not promise to keep it so.
///
/// # Panics
/// If the headers do not fit.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, number: u32, size: usize) -> Vec<u8> {
    const WINDOW: [u8; 2] = [0xff, 0xff];
    /// Header length in words, and the flag ACK: PSH would end a merged packet.
    const LENGTH_AND_FLAGS: [u8; 2] = [0x50, 0x10];
    let mut body = from.port().to_be_bytes().to_vec();
    body.extend(to.port().to_be_bytes());
    let sequence = number.wrapping_mul((size - TCP_HEADERS) as u32);
    body.extend(sequence.to_be_bytes());
    body.extend([0, 0, 0, 1]);
    body.extend(LENGTH_AND_FLAGS);
    body.extend(WINDOW);
    body.extend([0; 4]);
    body.resize(size - IPV4, FILLER);
    // A raw socket has the kernel choose in place of 0.
    let identification = (number % u32::from(u16::MAX)) as u16 + 1;
    with_header(PROTOCOL_TCP, identification, from, to, body, TCP_SUM)
}

/// The payload of a TCP segment for a port; `None` for any other packet.
pub fn tcp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let body = packet.get(IPV4..)?;
    let is_it = packet[0] == 0x45
        && packet[9] == PROTOCOL_TCP
        && body.get(2..4) == Some(&port.to_be_bytes()[..]);
    let words = usize::from(body.get(12)? >> 4);
    body.get(4 * words..).filter(|_| is_it)
}

fn with_header(
    protocol: u8,
    identification: u16,
    from: SocketAddrV4,
    to: SocketAddrV4,
    mut body: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let length = ((IPV4 + body.len()) as u16).to_be_bytes();
    let id = identification.to_be_bytes();
    // Version and header length, DF, 64 hops.
    let mut head = [
        0x45, 0, length[0], length[1], id[0], id[1], 0x40, 0, 64, protocol, 0, 0,
    ]
    .to_vec();
    head.extend(from.ip().octets());
    head.extend(to.ip().octets());
    let own = checksum(0, &head).to_be_bytes();
    head[10..12].copy_from_slice(&own);
    let sum = checksum(
        pseudo_header(protocol, *from.ip(), *to.ip(), body.len()),
        &body,
    );
    // Zero would say that there is none, in UDP.
    let sum = if sum == 0 { u16::MAX } else { sum };
    body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    head.extend(body);
    head
}

fn pseudo_header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, length: usize) -> u32 {
    let mut bytes = [from.octets(), to.octets()].concat();
    let length = (length as u16).to_be_bytes();
    bytes.extend([0, protocol, length[0], length[1]]);
    sum(0, &bytes)
}

/// RFC 1071.
fn checksum(begin: u32, bytes: &[u8]) -> u16 {
    let mut total = sum(begin, bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn sum(begin: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(begin, |total, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        total + u32::from(u16::from_be_bytes([pair[0], low]))
    })
}

#[cfg(test)]
mod tests {
    use super::{checksum, pseudo_header, tcp, tcp_payload, udp};

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(0, &bytes), !0xddf2);
    }

    #[test]
    fn checksums_of_a_packet_add_up() {
        let (from, to) = ("10.30.0.2:20000", "10.20.0.2:9000");
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        for size in [64, 65, 1400] {
            for packet in [udp(from, to, size), tcp(from, to, 0xffff_fff0, size)] {
                assert_eq!(packet.len(), size);
                assert_eq!(checksum(0, &packet[..20]), 0);
                let pseudo = pseudo_header(packet[9], *from.ip(), *to.ip(), size - 20);
                assert_eq!(checksum(pseudo, &packet[20..]), 0);
            }
        }
    }

    #[test]
    fn segments_follow_each_other() {
        let (from, to) = ("10.30.0.2:20000", "10.20.0.2:9000");
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let numbers = |number| {
            let segment = tcp(from, to, number, 1400);
            let id = u16::from_be_bytes([segment[4], segment[5]]);
            let sequence = segment[24..28].try_into().unwrap();
            (id, u32::from_be_bytes(sequence))
        };
        assert_eq!([numbers(0), numbers(1)], [(1, 0), (2, 1360)]);
        assert_eq!([numbers(65_534).0, numbers(65_535).0], [65_535, 1]);
        // The bytes of 32 bits of sequence are 3,158,064 segments and 256 bytes.
        assert_eq!(numbers(3_158_065).1, 1360 - 256);
    }

    #[test]
    fn the_payload_of_a_segment_is_found() {
        let (from, to) = ("10.30.0.2:20000", "10.20.0.2:9000");
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let segment = tcp(from, to, 1, 100);
        assert_eq!(tcp_payload(&segment, 9000), Some(&[super::FILLER; 60][..]));
        assert_eq!(tcp_payload(&segment, 9001), None);
        assert_eq!(tcp_payload(&segment[..30], 9000), None);
        assert_eq!(tcp_payload(&udp(from, to, 100), 9000), None);
    }
}
