//! Inner IP headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ocserv_common::ip::{IpError, IpHeader};

/// The header is what RFC 791 and RFC 8200 say, and its length lies within the packet.
pub fn ip(data: &[u8]) {
    let parsed = IpHeader::parse(data);
    assert_eq!(parsed.ok(), model(data));
    let Ok(header) = parsed else {
        return;
    };
    assert!((20..=data.len()).contains(&header.total_len));
    let packet = &data[..header.total_len];
    assert_eq!(IpHeader::parse(packet), Ok(header), "padding matters not");
    let short = &packet[..packet.len() - 1];
    assert_eq!(IpHeader::parse(short), Err(IpError::Truncated));
    let control = match header.src {
        IpAddr::V4(_) => [1, 2].contains(&header.protocol),
        IpAddr::V6(_) => header.protocol == 58,
    };
    assert_eq!(header.counts_as_activity(), !control);
}

fn model(packet: &[u8]) -> Option<IpHeader> {
    let byte = |at: usize| packet.get(at).copied();
    let word = |at: usize| Some(usize::from(byte(at)?) * 256 + usize::from(byte(at + 1)?));
    match byte(0)? >> 4 {
        4 => {
            let address = |at: usize| {
                Some(Ipv4Addr::from_octets(
                    packet.get(at..at + 4)?.try_into().ok()?,
                ))
            };
            let header_len = usize::from(byte(0)? % 16) * 4;
            let total_len = word(2)?;
            let header = IpHeader {
                src: address(12)?.into(),
                dst: address(16)?.into(),
                protocol: byte(9)?,
                total_len,
            };
            (20 <= header_len && header_len <= total_len && total_len <= packet.len())
                .then_some(header)
        }
        6 => {
            let address = |at: usize| {
                Some(Ipv6Addr::from_octets(
                    packet.get(at..at + 16)?.try_into().ok()?,
                ))
            };
            let total_len = 40 + word(4)?;
            let inner = if byte(6)? == 0 && total_len > 40 {
                byte(40)?
            } else {
                byte(6)?
            };
            let header = IpHeader {
                src: address(8)?.into(),
                dst: address(24)?.into(),
                protocol: inner,
                total_len,
            };
            (total_len <= packet.len()).then_some(header)
        }
        _ => None,
    }
}
