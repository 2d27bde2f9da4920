//! Inner IP headers, read without trust.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpError {
    /// Fewer bytes than the header, or than the header announces.
    Truncated,
    /// Neither version 4 nor 6.
    Version,
    /// Header length below its minimum or beyond the packet.
    HeaderLength,
}

/// What delivery and accounting need of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol after the header; for IPv6 the one after a hop-by-hop header too, no further.
    pub protocol: u8,
    /// Bytes of the packet as its header says; what follows in the slice is padding.
    pub total_len: usize,
}

impl IpHeader {
    /// Reads the header at the beginning of `packet`.
    ///
    /// # Errors
    /// The packet must be dropped: [`IpError`] says why.
    pub fn parse(packet: &[u8]) -> Result<Self, IpError> {
        match packet.first().ok_or(IpError::Truncated)? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => Err(IpError::Version),
        }
    }

    /// Whether the packet resets `idle-timeout`: ICMP, IGMP and ICMPv6 do not (protocol.md 7).
    pub fn counts_as_activity(&self) -> bool {
        !match self.src {
            IpAddr::V4(_) => matches!(self.protocol, ICMP | IGMP),
            IpAddr::V6(_) => self.protocol == ICMPV6,
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, IpError> {
        let header: &[u8; IPV4_HEADER] = packet.first_chunk().ok_or(IpError::Truncated)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_HEADER || total_len < header_len {
            return Err(IpError::HeaderLength);
        }
        if total_len > packet.len() {
            return Err(IpError::Truncated);
        }
        let address = |at: usize| {
            IpAddr::V4(Ipv4Addr::new(
                header[at],
                header[at + 1],
                header[at + 2],
                header[at + 3],
            ))
        };
        Ok(Self {
            src: address(12),
            dst: address(16),
            protocol: header[9],
            total_len,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, IpError> {
        let header: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(IpError::Truncated)?;
        let total_len = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if total_len > packet.len() {
            return Err(IpError::Truncated);
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        // Multicast listener reports carry a hop-by-hop header before ICMPv6.
        let protocol = match (header[6], packet.get(IPV6_HEADER)) {
            (HOP_BY_HOP, Some(next)) if total_len > IPV6_HEADER => *next,
            (next, _) => next,
        };
        Ok(Self {
            src: address(8),
            dst: address(24),
            protocol,
            total_len,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = (IPV4_HEADER + payload.len()) as u16;
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet.extend([192, 0, 2, 1, 198, 51, 100, 7]);
        packet.extend(payload);
        packet
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        packet.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    #[test]
    fn reads_both_versions() {
        let v4 = IpHeader::parse(&ipv4(17, b"12345678")).unwrap();
        assert_eq!(v4.src, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(v4.dst, "198.51.100.7".parse::<IpAddr>().unwrap());
        assert_eq!((v4.protocol, v4.total_len), (17, 28));
        let v6 = IpHeader::parse(&ipv6(6, b"tcp")).unwrap();
        assert_eq!(v6.src, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(v6.dst, "2001:db8::2".parse::<IpAddr>().unwrap());
        assert_eq!((v6.protocol, v6.total_len), (6, 43));
    }

    #[test]
    fn padding_is_told_apart() {
        let mut packet = ipv4(6, b"data");
        packet.extend([0; 9]);
        assert_eq!(IpHeader::parse(&packet).unwrap().total_len, 24);
    }

    #[test]
    fn lying_lengths_are_refused() {
        assert_eq!(IpHeader::parse(&[]), Err(IpError::Truncated));
        assert_eq!(IpHeader::parse(&[0x55; 60]), Err(IpError::Version));
        let packet = ipv4(6, b"data");
        assert_eq!(IpHeader::parse(&packet[..23]), Err(IpError::Truncated));
        assert_eq!(IpHeader::parse(&packet[..19]), Err(IpError::Truncated));
        let mut short_header = packet.clone();
        short_header[0] = 0x44;
        assert_eq!(IpHeader::parse(&short_header), Err(IpError::HeaderLength));
        let mut options_beyond = packet;
        options_beyond[0] = 0x4f;
        assert_eq!(IpHeader::parse(&options_beyond), Err(IpError::HeaderLength));
        let packet = ipv6(6, b"data");
        assert_eq!(IpHeader::parse(&packet[..43]), Err(IpError::Truncated));
    }

    #[test]
    fn control_traffic_is_not_activity() {
        let active = |packet: &[u8]| IpHeader::parse(packet).unwrap().counts_as_activity();
        assert!(active(&ipv4(6, b"")));
        assert!(active(&ipv4(58, b"")), "58 means ICMPv6 only in IPv6");
        assert!(!active(&ipv4(1, b"")));
        assert!(!active(&ipv4(2, b"")));
        assert!(active(&ipv6(17, b"x")));
        assert!(!active(&ipv6(58, b"x")));
        assert!(
            !active(&ipv6(0, &[58, 0, 5, 2, 0, 0, 1, 0])),
            "listener report"
        );
        assert!(active(&ipv6(0, &[])));
    }

    proptest! {
        #[test]
        fn total_length_lies_within_the_slice(bytes in prop::collection::vec(any::<u8>(), 0..80),
                                              version in prop_oneof![Just(0x40u8), Just(0x60)]) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version | (*first & 0x0f);
            }
            if let Ok(header) = IpHeader::parse(&bytes) {
                prop_assert!((20..=bytes.len()).contains(&header.total_len));
            }
        }
    }
}
