//! The packet link between a gate and the dataplane: a Unix SEQPACKET socket, one frame a message.
//!
//! ```text
//!  0      1      2..4   4..8
//!  kind   0      0      slot (little endian)   body ...
//! ```
//!
//! Packets of one session that travel together share a message: each has its length (little endian,
//! two bytes) before it.
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
    /// Several inner packets of one session, in order.
    Packets {
        /// The session.
        slot: Slot,
        /// The packets.
        packets: Packed<'a>,
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
const KIND_PACKETS: u8 = 2;
/// Bytes before each of several packets.
const LENGTH_LEN: usize = 2;
/// Most bytes of packed packets in one message.
pub const MAX_PACKED: usize = 16 * 1024;

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
            KIND_PACKETS => Some(Self::Packets {
                slot,
                packets: Packed {
                    rest: body,
                    at: HEADER_LEN,
                },
            }),
            KIND_DATAGRAM => {
                let (flow, bytes) = body.split_at_checked(FLOW_LEN)?;
                let peer = parse_address(&flow[..18])?;
                let local = parse_address(&flow[18..])?;
                Some(Self::Datagram {
                    slot,
                    peer,
                    local,
                    bytes,
                })
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
            Self::Packets { slot, packets } => {
                out.extend_from_slice(&packets_header(*slot));
                out.extend_from_slice(packets.rest);
            }
            Self::Datagram {
                slot,
                peer,
                local,
                bytes,
            } => {
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

/// The header of a [`Frame::Packets`]; [`pack`] makes the body.
pub fn packets_header(slot: Slot) -> [u8; HEADER_LEN] {
    let mut header = packet_header(slot);
    header[0] = KIND_PACKETS;
    header
}

/// Appends a packet with its length to the body of a [`Frame::Packets`]. Returns where the packet
/// itself begins; `None`: it is longer than any packet.
pub fn pack(body: &mut Vec<u8>, packet: &[u8]) -> Option<usize> {
    let length = u16::try_from(packet.len()).ok()?;
    body.extend_from_slice(&length.to_le_bytes());
    let start = body.len();
    body.extend_from_slice(packet);
    Some(start)
}

/// The packets of a message, each with its offset in the message. A piece without its whole length
/// ends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Packed<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk::<LENGTH_LEN>()?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (packet, rest) = rest.split_at_checked(length)?;
        let at = self.at + LENGTH_LEN;
        *self = Self {
            rest,
            at: at + length,
        };
        Some((at, packet))
    }
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
        round_trip(&Frame::Packet {
            slot: Slot(7),
            packet: b"inner",
        });
        round_trip(&Frame::Datagram {
            slot: Slot(u32::MAX),
            peer: "192.0.2.1:4433".parse().unwrap(),
            local: "[2001:db8::1]:443".parse().unwrap(),
            bytes: b"record",
        });
    }

    #[test]
    fn packets_travel_together() {
        let mut message = packets_header(Slot(7)).to_vec();
        for packet in [&b"one"[..], b"", b"three"] {
            pack(&mut message, packet).unwrap();
        }
        let Some(Frame::Packets { slot, packets }) = Frame::parse(&message) else {
            panic!("not packets");
        };
        let found: Vec<_> = packets.collect();
        assert_eq!(slot, Slot(7));
        assert_eq!(found, [(10, &b"one"[..]), (15, b""), (17, b"three")]);
        for (at, packet) in found {
            assert_eq!(&message[at..at + packet.len()], packet);
        }
        message.pop();
        let Some(Frame::Packets { packets, .. }) = Frame::parse(&message) else {
            panic!("not packets");
        };
        assert_eq!(packets.count(), 2, "the third is not whole");
        assert_eq!(pack(&mut message, &[0; 65_536]), None);
    }

    #[test]
    fn malformed_frames_are_refused() {
        assert_eq!(Frame::parse(&[]), None);
        assert_eq!(Frame::parse(&[0; 7]), None);
        assert_eq!(
            Frame::parse(&[9, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "unknown kind"
        );
        assert_eq!(
            Frame::parse(&[0, 1, 0, 0, 0, 0, 0, 0]),
            None,
            "reserved bytes"
        );
        assert_eq!(Frame::parse(&[1; 30]), None, "datagram without its flow");
    }
}
