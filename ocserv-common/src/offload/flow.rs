//! What a packet is to a super-packet: of which flow, and whether it may be part of one.

use super::checksum::{fold, pseudo_header, sum};
use super::coalesce::Kind;
use super::{
    IPV4_HEADER, IPV6_HEADER, TCP, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, get8, get16, get32,
};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A packet that may be part of a super-packet, if its checksums are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) hash: u32,
    /// Bytes of all headers.
    pub(super) headers: usize,
    /// Bytes behind them, at least one.
    pub(super) payload: usize,
    /// Of TCP.
    pub(super) sequence: u32,
    /// TCP's PSH: nothing may follow.
    pub(super) push: bool,
}

/// What a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Part(Part),
    /// It goes alone, and keeps its place in the flow of this hash.
    Alone(u32),
    /// It goes alone, and may belong to any flow between its addresses.
    AnyFlow,
    /// Not IP: the kernel will refuse it.
    Foreign,
}

/// Looks at a packet.
pub(super) fn look(packet: &[u8]) -> Look {
    match get8(packet, 0) >> 4 {
        4 if packet.len() >= IPV4_HEADER => {
            let plain = get8(packet, 0) == 0x45
                && usize::from(get16(packet, 2)) == packet.len()
                // Reserved bit, more fragments, offset.
                && get16(packet, 6) & 0xbfff == 0;
            look_inside(packet, IPV4_HEADER, get8(packet, 9), plain)
        }
        6 if packet.len() >= IPV6_HEADER => {
            let plain = IPV6_HEADER + usize::from(get16(packet, 4)) == packet.len();
            look_inside(packet, IPV6_HEADER, get8(packet, 6), plain)
        }
        _ => Look::Foreign,
    }
}

fn look_inside(packet: &[u8], network: usize, protocol: u8, plain: bool) -> Look {
    let Some(transport) = packet.get(network..) else {
        return Look::Foreign;
    };
    if !plain || transport.len() < UDP_HEADER {
        return Look::AnyFlow;
    }
    let is_ipv4 = network == IPV4_HEADER;
    let hash = hash(packet, network, protocol);
    let part = match protocol {
        TCP => tcp_part(transport, is_ipv4, network, hash),
        UDP => udp_part(transport, network, hash),
        _ => return Look::AnyFlow,
    };
    part.map_or(Look::Alone(hash), Look::Part)
}

fn tcp_part(tcp: &[u8], is_ipv4: bool, network: usize, hash: u32) -> Option<Part> {
    let len = usize::from(get8(tcp, 12) >> 4) * 4;
    let flags = get8(tcp, 13);
    // Nothing but data in the middle of a connection; the four bits beside the length are reserved.
    let plain = flags & !PSH == ACK && get8(tcp, 12) & 0x0f == 0;
    (plain && len >= TCP_HEADER && len < tcp.len()).then(|| Part {
        kind: if is_ipv4 { Kind::TcpV4 } else { Kind::TcpV6 },
        hash,
        headers: network + len,
        payload: tcp.len() - len,
        sequence: get32(tcp, 4),
        push: flags & PSH != 0,
    })
}

fn udp_part(udp: &[u8], network: usize, hash: u32) -> Option<Part> {
    let whole = usize::from(get16(udp, 4)) == udp.len();
    // Without a checksum it must arrive without one.
    (whole && get16(udp, UDP_CHECKSUM) != 0 && udp.len() > UDP_HEADER).then(|| Part {
        kind: Kind::Udp,
        hash,
        headers: network + UDP_HEADER,
        payload: udp.len() - UDP_HEADER,
        sequence: 0,
        push: false,
    })
}

/// Both addresses, as they stand in the header.
pub(super) fn addresses(packet: &[u8]) -> &[u8] {
    let range = match get8(packet, 0) >> 4 {
        4 => 12..20,
        _ => 8..40,
    };
    packet.get(range).unwrap_or(&[])
}

/// Length of the IP header, which has no options.
pub(super) fn network_len(packet: &[u8]) -> usize {
    match get8(packet, 0) >> 4 {
        4 => IPV4_HEADER,
        _ => IPV6_HEADER,
    }
}

/// Of a packet with ports.
fn hash(packet: &[u8], network: usize, protocol: u8) -> u32 {
    let ports = get32(packet, network);
    let mut hash = u64::from(ports) << 8 | u64::from(protocol);
    let (words, _) = addresses(packet).as_chunks::<8>();
    for word in words {
        hash ^= u64::from_ne_bytes(*word);
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    hash as u32
}

/// Whether both, which have ports, are of one flow.
pub(super) fn same_flow(a: &[u8], b: &[u8]) -> bool {
    let network = network_len(a);
    let protocol = |packet| get8(packet, if network == IPV4_HEADER { 9 } else { 6 });
    network == network_len(b)
        && protocol(a) == protocol(b)
        && get32(a, network) == get32(b, network)
        && addresses(a) == addresses(b)
}

/// Whether `next` of the same flow has the headers that cutting would give it as number `index` after
/// `first`, but for lengths, checksums and TCP's sequence number and PSH.
pub(super) fn same_headers(first: &[u8], next: &[u8], index: usize) -> bool {
    let network = network_len(first);
    let same = |from: usize, to: usize| first.get(from..to) == next.get(from..to);
    let network_same = if network == IPV4_HEADER {
        // TOS; DF; TTL.
        same(0, 2) && same(6, 9) && follows(first, next, index)
    } else {
        // Traffic class and flow label; hop limit.
        same(0, 4) && same(7, 8)
    };
    let tcp = network;
    let is_tcp = get8(first, if network == IPV4_HEADER { 9 } else { 6 }) == TCP;
    let header = usize::from(get8(first, tcp + 12) >> 4) * 4;
    // Acknowledgement and header length; window; urgent pointer and options.
    let transport_same = !is_tcp
        || same(tcp + 8, tcp + 13) && same(tcp + 14, tcp + 16) && same(tcp + 18, tcp + header);
    network_same && transport_same
}

/// Cutting counts identifications up. Where fragments are possible, they must be so before too; with
/// DF they mean nothing (RFC 6864 §4.1), and senders put all the same or anything there.
fn follows(first: &[u8], next: &[u8], index: usize) -> bool {
    let dont_fragment = get8(first, 6) & 0x40 != 0;
    dont_fragment || get16(next, 4) == get16(first, 4).wrapping_add(index as u16)
}

/// Whether IP's and TCP's or UDP's checksum are right: a super-packet gets new ones, which must not
/// hide that a packet was damaged.
pub(super) fn checksums_hold(packet: &[u8]) -> bool {
    let (network, transport) = packet.split_at(network_len(packet).min(packet.len()));
    let protocol = if network.len() == IPV4_HEADER {
        if fold(sum(network)) != 0xffff {
            return false;
        }
        get8(packet, 9)
    } else {
        get8(packet, 6)
    };
    let pseudo = pseudo_header(addresses(packet), protocol, transport.len());
    fold(pseudo + sum(transport)) == 0xffff
}
