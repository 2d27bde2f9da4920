//! Inner packets: UDP over IPv4 with right checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of both headers.
pub const HEADERS: usize = IPV4 + UDP;
/// What every payload consists of.
pub const FILLER: u8 = 0x5a;

const IPV4: usize = 20;
const UDP: usize = 8;
const PROTOCOL: u8 = 17;

/// A packet of `size` bytes, headers included.
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
    let length = (size as u16).to_be_bytes();
    let datagram = ((size - IPV4) as u16).to_be_bytes();
    // Version and header length, no id, DF, 64 hops.
    let mut head = [
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, PROTOCOL, 0, 0,
    ]
    .to_vec();
    head.extend(from.ip().octets());
    head.extend(to.ip().octets());
    let own = checksum(0, &head).to_be_bytes();
    head[10..12].copy_from_slice(&own);
    let mut body = from.port().to_be_bytes().to_vec();
    body.extend(to.port().to_be_bytes());
    body.extend(datagram);
    body.extend([0, 0]);
    body.resize(size - IPV4, FILLER);
    stamp(&mut body[UDP..]);
    let sum = checksum(pseudo_header(*from.ip(), *to.ip(), datagram), &body);
    // Zero would say that there is none.
    let sum = if sum == 0 { u16::MAX } else { sum };
    body[6..8].copy_from_slice(&sum.to_be_bytes());
    head.extend(body);
    head
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: [u8; 2]) -> u32 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, PROTOCOL, length[0], length[1]]);
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
    use super::{checksum, pseudo_header, udp};

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
            let packet = udp(from, to, size);
            assert_eq!(packet.len(), size);
            assert_eq!(checksum(0, &packet[..20]), 0);
            let datagram = ((size - 20) as u16).to_be_bytes();
            let pseudo = pseudo_header(*from.ip(), *to.ip(), datagram);
            assert_eq!(checksum(pseudo, &packet[20..]), 0);
        }
    }
}
