//! The packet link between a gate and the dataplane: a Unix SEQPACKET socket, one frame a message.
//!
//! ```text
//!  0      1      2..4   4..8
//!  kind   0      0      slot (little endian)   body ...
//! ```
//!
//! Both ends treat the other as hostile: an unknown kind or a short frame is dropped and counted, and
//! the dataplane refuses slots that do not belong to the gate.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::ids::Slot;

/// Bytes before the body.
pub const HEADER_LEN: usize = 8;
/// Bytes of the two addresses in front of a datagram body: 16 address + 2 port, client then local.
pub const FLOW_LEN: usize = 36;
/// Largest frame: an inner packet or UDP datagram of 16 KiB with headers.
pub const MAX_FRAME: usize = 16 * 1024 + HEADER_LEN + FLOW_LEN + 64;

/// A frame of the link.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An inner IP packet: gate → dataplane received by CSTP, dataplane → gate to be sent by CSTP.
    Packet {
        /// The session.
        slot: Slot,
        /// IPv4 or IPv6 packet.
        packet: &'a [u8],
    },
    /// A UDP datagram of a DTLS handshake. Towards the dataplane: send it from `local` to `peer`.
    Datagram {
        /// The session that the ClientHello named.
        slot: Slot,
        /// Client's UDP address.
        peer: SocketAddr,
        /// Server's UDP address.
        local: SocketAddr,
        /// DTLS records.
        bytes: &'a [u8],
    },
}

const KIND_PACKET: u8 = 0;
const KIND_DATAGRAM: u8 = 1;

impl<'a> Frame<'a> {
    /// Reads one message of the link. `None`: malformed.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, body) = message.split_at_checked(HEADER_LEN)?;
        let slot = Slot(u32::from_le_bytes(header[4..8].try_into().ok()?));
        if header[1..4] != [0; 3] {
            return None;
        }
        match header[0] {
            KIND_PACKET => Some(Self::Packet { slot, packet: body }),
            KIND_DATAGRAM => {
                let (flow, bytes) = body.split_at_checked(FLOW_LEN)?;
                let peer = parse_address(&flow[..18])?;
                let local = parse_address(&flow[18..])?;
                Some(Self::Datagram { slot, peer, local, bytes })
            }
            _ => None,
        }
    }

    /// Appends the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Packet { slot, packet } => {
                out.extend_from_slice(&packet_header(*slot));
                out.extend_from_slice(packet);
            }
            Self::Datagram { slot, peer, local, bytes } => {
                let mut header = packet_header(*slot);
                header[0] = KIND_DATAGRAM;
                out.extend_from_slice(&header);
                write_address(peer, out);
                write_address(local, out);
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// The header of a [`Frame::Packet`], for senders that gather header and packet without a copy.
pub fn packet_header(slot: Slot) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = KIND_PACKET;
    header[4..].copy_from_slice(&slot.0.to_le_bytes());
    header
}

fn write_address(address: &SocketAddr, out: &mut Vec<u8>) {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&address.port().to_le_bytes());
}

fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at_checked(16)?;
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?);
    let port = u16::from_le_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        assert_eq!(Frame::parse(&bytes).as_ref(), Some(frame));
    }

    #[test]
    fn frames_survive_the_link() {
        round_trip(&Frame::Packet { slot: Slot(7), packet: b"inner" });
        round_trip(&Frame::Datagram {
            slot: Slot(u32::MAX),
            peer: "192.0.2.1:4433".parse().unwrap(),
            local: "[2001:db8::1]:443".parse().unwrap(),
            bytes: b"record",
        });
    }

    #[test]
    fn malformed_frames_are_refused() {
        assert_eq!(Frame::parse(&[]), None);
        assert_eq!(Frame::parse(&[0; 7]), None);
        assert_eq!(Frame::parse(&[9, 0, 0, 0, 0, 0, 0, 0]), None, "unknown kind");
        assert_eq!(Frame::parse(&[0, 1, 0, 0, 0, 0, 0, 0]), None, "reserved bytes");
        assert_eq!(Frame::parse(&[1; 30]), None, "datagram without its flow");
    }
}
