//! "Packet too big" for packets that do not fit a session's MTU.
//!
//! The message carries the client's address as its source: the host accepts it from the tun device
//! by any reverse-path rule, and the sender reads only what is quoted.

use std::ops::Range;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Each link takes so much.
const IPV6_MINIMUM: usize = ocserv_proto::mtu::IPV6_MINIMUM as usize;
/// RFC 1812 4.3.2.3: a message of at most 576 bytes.
const MAX_IPV4: usize = 576;
/// RFC 4443 3.2: as much of the packet as the minimum MTU takes.
const MAX_IPV6: usize = 1280;
/// Room for either message.
pub const MAX_LEN: usize = MAX_IPV6;

/// What to do with a packet that is larger than the session's MTU.
#[derive(Debug, PartialEq, Eq)]
pub enum TooBig {
    /// CSTP takes it whole: IPv4 that routers may fragment, IPv6 that each link must take.
    ByCstp,
    /// Drop it, and send so many bytes of the buffer to its sender.
    Report(usize),
    /// Drop it: it is an error message itself, or nobody could be told.
    Silent,
}

/// Decides, and writes the message into `out`. `packet` has a valid IP header.
pub fn too_big(packet: &[u8], mtu: usize, out: &mut [u8; MAX_LEN]) -> TooBig {
    let len = match packet.first().map(|byte| byte >> 4) {
        Some(4) if !dont_fragment(packet) => return TooBig::ByCstp,
        Some(4) => report_v4(packet, mtu, out),
        // RFC 8200 5: no sender makes its packets smaller.
        Some(6) if packet.len() <= IPV6_MINIMUM => return TooBig::ByCstp,
        Some(6) => report_v6(packet, mtu.max(IPV6_MINIMUM), out),
        _ => None,
    };
    len.map_or(TooBig::Silent, TooBig::Report)
}

fn dont_fragment(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|flags| flags & 0x40 != 0)
}

fn report_v4(packet: &[u8], mtu: usize, out: &mut [u8; MAX_LEN]) -> Option<usize> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let icmp_type = packet.get(header_len).copied();
    // Errors are not answered; echo (0 and 8) and the like are.
    let error = header[9] == ICMP && matches!(icmp_type, Some(3 | 4 | 5 | 11 | 12) | None);
    if later_fragment || error || !answerable_v4(&header[12..16]) {
        return None;
    }
    let quoted = packet.len().min(MAX_IPV4 - IPV4_HEADER - ICMP_HEADER);
    let len = IPV4_HEADER + ICMP_HEADER + quoted;
    let message = out.get_mut(..len)?;
    message[..IPV4_HEADER + ICMP_HEADER].fill(0);
    message[0] = 0x45;
    message[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    message[8] = 64;
    message[9] = ICMP;
    message[12..16].copy_from_slice(&header[16..20]);
    message[16..20].copy_from_slice(&header[12..16]);
    // Destination unreachable, fragmentation needed (RFC 1191 4).
    message[20..22].copy_from_slice(&[3, 4]);
    message[26..28].copy_from_slice(&u16::try_from(mtu).ok()?.to_be_bytes());
    message[28..].copy_from_slice(&packet[..quoted]);
    put_checksum(message, 0..IPV4_HEADER, 10, 0);
    put_checksum(message, IPV4_HEADER..len, 22, 0);
    Some(len)
}

fn answerable_v4(source: &[u8]) -> bool {
    // Not unspecified, multicast or broadcast.
    source.first().is_some_and(|byte| *byte != 0 && *byte < 224)
}

fn report_v6(packet: &[u8], mtu: usize, out: &mut [u8; MAX_LEN]) -> Option<usize> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let error = header[6] == ICMPV6 && packet.get(IPV6_HEADER).is_none_or(|kind| *kind < 128);
    let source = &header[8..24];
    if error || source[0] == 0xff || source.iter().all(|byte| *byte == 0) {
        return None;
    }
    let quoted = packet.len().min(MAX_IPV6 - IPV6_HEADER - ICMP_HEADER);
    let len = IPV6_HEADER + ICMP_HEADER + quoted;
    let payload = u16::try_from(ICMP_HEADER + quoted).ok()?;
    let message = out.get_mut(..len)?;
    message[..IPV6_HEADER + ICMP_HEADER].fill(0);
    message[0] = 0x60;
    message[4..6].copy_from_slice(&payload.to_be_bytes());
    message[6] = ICMPV6;
    message[7] = 64;
    message[8..24].copy_from_slice(&header[24..40]);
    message[24..40].copy_from_slice(&header[8..24]);
    // Packet too big (RFC 4443 3.2).
    message[40] = 2;
    message[44..48].copy_from_slice(&u32::try_from(mtu).ok()?.to_be_bytes());
    message[48..].copy_from_slice(&packet[..quoted]);
    let pseudo = sum(&message[8..40]) + u32::from(payload) + u32::from(ICMPV6);
    put_checksum(message, IPV6_HEADER..len, 42, pseudo);
    Some(len)
}

/// Writes the checksum of `range`, whose field at `at` is zero.
fn put_checksum(message: &mut [u8], range: Range<usize>, at: usize, pseudo: u32) {
    let checksum = !fold(sum(&message[range]) + pseudo);
    message[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// At most 1280 bytes: no overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, last) = bytes.as_chunks::<2>();
    let words: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    words + last.first().map_or(0, |byte| u32::from(*byte) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(flags: u8, protocol: u8, first: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 5, 220, 0, 1, flags, 0, 64, protocol, 0, 0];
        packet.extend([192, 0, 2, 1, 10, 0, 0, 2]);
        packet.resize(1500, 0xaa);
        packet[20] = first;
        packet
    }

    fn ipv6(next: u8, first: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 5, 180, next, 64];
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.resize(1500, 0xaa);
        packet[40] = first;
        packet
    }

    #[test]
    fn ipv4_with_df_is_reported_to_its_sender() {
        let mut out = [0; MAX_LEN];
        let packet = ipv4(0x40, 6, 0);
        assert_eq!(too_big(&packet, 1400, &mut out), TooBig::Report(576));
        assert_eq!(out[12..20], [10, 0, 0, 2, 192, 0, 2, 1]);
        assert_eq!(out[20..22], [3, 4]);
        assert_eq!(out[26..28], 1400u16.to_be_bytes());
        assert_eq!(out[28..576], packet[..548]);
        assert_eq!(fold(sum(&out[..20])), 0xffff, "header checksum");
        assert_eq!(fold(sum(&out[20..576])), 0xffff, "ICMP checksum");
    }

    #[test]
    fn ipv6_is_reported_to_its_sender() {
        let mut out = [0; MAX_LEN];
        let packet = ipv6(6, 0);
        assert_eq!(too_big(&packet, 1400, &mut out), TooBig::Report(1280));
        assert_eq!((out[24], out[39], out[40]), (0x20, 1, 2));
        assert_eq!(out[44..48], 1400u32.to_be_bytes());
        assert_eq!(out[48..1280], packet[..1232]);
        let pseudo = sum(&out[8..40]) + 1240 + 58;
        assert_eq!(fold(sum(&out[40..1280]) + pseudo), 0xffff);
    }

    #[test]
    fn ipv6_is_never_asked_for_less_than_1280() {
        let mut out = [0; MAX_LEN];
        let packet = ipv6(6, 0);
        assert_eq!(too_big(&packet[..1280], 1200, &mut out), TooBig::ByCstp);
        assert_eq!(
            too_big(&packet[..1281], 1200, &mut out),
            TooBig::Report(1280)
        );
        assert_eq!(out[44..48], 1280u32.to_be_bytes());
    }

    #[test]
    fn errors_fragments_and_nameless_senders_are_not_answered() {
        let mut out = [0; MAX_LEN];
        assert_eq!(too_big(&ipv4(0, 6, 0), 1400, &mut out), TooBig::ByCstp);
        assert_eq!(too_big(&ipv4(0x40, 1, 3), 1400, &mut out), TooBig::Silent);
        assert!(matches!(
            too_big(&ipv4(0x40, 1, 8), 1400, &mut out),
            TooBig::Report(_)
        ));
        assert_eq!(too_big(&ipv4(0x41, 6, 0), 1400, &mut out), TooBig::Silent);
        assert_eq!(too_big(&ipv6(58, 1), 1400, &mut out), TooBig::Silent);
        assert!(matches!(
            too_big(&ipv6(58, 128), 1400, &mut out),
            TooBig::Report(_)
        ));
        let mut nameless = ipv4(0x40, 6, 0);
        nameless[12] = 0;
        assert_eq!(too_big(&nameless, 1400, &mut out), TooBig::Silent);
        assert_eq!(too_big(&[], 1400, &mut out), TooBig::Silent);
    }
}
