//! Inner packets as a kernel program reads them: from their first bytes, which lie in memory of fixed
//! size. [`crate::ip`] is the same for slices.

use crate::datagram::fold;
use crate::kernel::Address;

/// Bytes of an inner packet that are looked at: the longest IPv4 header and a TCP header.
pub const INNER_HEAD: usize = 80;
/// The first bytes of an inner packet.
pub type InnerHead = [u8; INNER_HEAD];

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
/// UDP ports of tunnels whose inner checksum a device may have to complete: VXLAN (two numbers), GENEVE.
const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];
/// Both bits of ECN: congestion experienced (RFC 3168 §5).
const CONGESTION: u8 = 3;

/// What a program needs of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IPv4, else IPv6.
    pub is_ipv4: bool,
    /// Bytes of the header; for IPv6 without extension headers.
    pub header_len: usize,
    /// Bytes of the packet as its header says; what follows is padding.
    pub total_len: usize,
    /// Protocol after the header.
    pub protocol: u8,
    /// Whether it resets `idle-timeout` (protocol.md 7).
    pub is_activity: bool,
}

/// What a packet's own bytes say of the checksums within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing is to be completed.
    Complete,
    /// TCP or UDP with only the sum of the pseudo header so far. A finished checksum looks the same once in
    /// 65,536 times: the flow's other packets may be complete.
    LooksOpen,
    /// A protocol that is not looked into, or a tunnel. So are the flow's other packets.
    Unknown,
}

impl Inner {
    /// Reads the header of a packet of `len` bytes. `None`: it is not an IP packet.
    #[inline(always)]
    pub fn parse(head: &InnerHead, len: usize) -> Option<Self> {
        let inner = match head[0] >> 4 {
            4 => {
                let protocol = head[9];
                Self {
                    is_ipv4: true,
                    header_len: usize::from(head[0] & 0x0f) * 4,
                    total_len: usize::from(word(head, 2)),
                    protocol,
                    is_activity: protocol != ICMP && protocol != IGMP,
                }
            }
            6 => {
                let total_len = IPV6_HEADER + usize::from(word(head, 4));
                let protocol = head[6];
                // Multicast listener reports carry a hop-by-hop header before ICMPv6.
                let counts = if protocol == HOP_BY_HOP && total_len > IPV6_HEADER {
                    head[IPV6_HEADER]
                } else {
                    protocol
                };
                Self {
                    is_ipv4: false,
                    header_len: IPV6_HEADER,
                    total_len,
                    protocol,
                    is_activity: counts != ICMPV6,
                }
            }
            _ => return None,
        };
        let fits = inner.header_len >= IPV4_HEADER
            && inner.total_len >= inner.header_len
            && inner.total_len <= len;
        fits.then_some(inner)
    }

    /// Its source.
    #[inline(always)]
    pub fn source(&self, head: &InnerHead) -> Address {
        if self.is_ipv4 {
            mapped(head, 12)
        } else {
            octets(head, 8)
        }
    }

    /// Its destination.
    #[inline(always)]
    pub fn destination(&self, head: &InnerHead) -> Address {
        if self.is_ipv4 {
            mapped(head, 16)
        } else {
            octets(head, 24)
        }
    }

    /// Whether each router on the way has to look at more than addresses: IPv4 options, or IPv6
    /// hop-by-hop options. The host's stack does.
    #[inline(always)]
    pub fn has_options(&self) -> bool {
        if self.is_ipv4 {
            self.header_len > IPV4_HEADER
        } else {
            self.protocol == HOP_BY_HOP
        }
    }

    /// Whether a checksum within may still have to be completed, which the host's stack does before a
    /// device sends. `is_local`: this host made the packet; its UDP may be a tunnel of any port.
    #[inline(always)]
    pub fn checksum(&self, head: &InnerHead, is_local: bool) -> Checksum {
        if let Some(protocol) = self.fragment_of(head) {
            // Made of a packet whose checksum was complete. But it goes the way of the flow's other packets.
            return match protocol {
                TCP | UDP if is_local => Checksum::Unknown,
                TCP | UDP | ICMP | ICMPV6 | ESP => Checksum::Complete,
                _ => Checksum::Unknown,
            };
        }
        let at = self.header_len;
        match self.protocol {
            // The host leaves all that it sends to a device.
            TCP if is_local => Checksum::Unknown,
            TCP => self.look_at(head, word(head, at + 16)),
            UDP if is_local || TUNNEL_PORTS.contains(&word(head, at + 2)) => Checksum::Unknown,
            UDP => self.look_at(head, word(head, at + 6)),
            ICMP | ICMPV6 | ESP => Checksum::Complete,
            _ => Checksum::Unknown,
        }
    }

    /// Whether it is a part of a packet.
    #[inline(always)]
    pub fn is_fragment(&self, head: &InnerHead) -> bool {
        self.fragment_of(head).is_some()
    }

    /// The protocol of the packet that this is a fragment of, if it is one.
    #[inline(always)]
    fn fragment_of(&self, head: &InnerHead) -> Option<u8> {
        if self.is_ipv4 {
            (word(head, 6) & 0x3fff != 0).then_some(self.protocol)
        } else {
            (self.protocol == FRAGMENT).then_some(head[IPV6_HEADER])
        }
    }

    #[inline(always)]
    fn look_at(&self, head: &InnerHead, checksum: u16) -> Checksum {
        if self.is_pseudo_sum(head, checksum) {
            Checksum::LooksOpen
        } else {
            Checksum::Complete
        }
    }

    #[inline(always)]
    fn is_pseudo_sum(&self, head: &InnerHead, checksum: u16) -> bool {
        let mut sum = u64::from(self.protocol) + (self.total_len - self.header_len) as u64;
        let (start, words) = if self.is_ipv4 { (12, 4) } else { (8, 16) };
        for n in 0..16 {
            if n >= words {
                break;
            }
            sum += u64::from(word(head, start + 2 * n));
        }
        fold(sum) == checksum
    }

    /// Passes the congestion mark of the outer header on (RFC 6040 §4.2). `false`: the inner packet
    /// cannot carry it and must be dropped.
    #[inline(always)]
    pub fn mark_congestion(&self, head: &mut InnerHead) -> bool {
        if self.is_ipv4 {
            if head[1] & CONGESTION == 0 {
                return false;
            }
            let old = word(head, 0);
            head[1] |= CONGESTION;
            let new = word(head, 0);
            replace_in_checksum(head, old, new);
        } else {
            if head[1] >> 4 & CONGESTION == 0 {
                return false;
            }
            head[1] |= CONGESTION << 4;
        }
        true
    }

    /// Whether it may go on to another host.
    #[inline(always)]
    pub fn has_hops(&self, head: &InnerHead) -> bool {
        head[self.ttl_at()] > 1
    }

    /// Where TTL or hop limit lies.
    #[inline(always)]
    fn ttl_at(&self) -> usize {
        if self.is_ipv4 { 8 } else { 7 }
    }

    /// Takes one from TTL or hop limit. `false`: it was used up, and nothing is changed.
    #[inline(always)]
    pub fn decrement_ttl(&self, head: &mut InnerHead) -> bool {
        let at = self.ttl_at();
        if head[at] <= 1 {
            return false;
        }
        let old = word(head, 8);
        head[at] -= 1;
        if self.is_ipv4 {
            let new = word(head, 8);
            replace_in_checksum(head, old, new);
        }
        true
    }
}

/// The first bytes of what lies in a larger buffer. `None`: the buffer ends before.
#[inline]
pub fn head_at(buffer: &[u8], at: usize) -> Option<InnerHead> {
    buffer.get(at..)?.first_chunk().copied()
}

/// Passes the congestion mark of the outer header on to a whole packet, as [`Inner::mark_congestion`] does to
/// the first bytes of one. `false`: it cannot carry it, and must be dropped.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let len = packet.len();
    let mut head = [0; INNER_HEAD];
    for (to, from) in head.iter_mut().zip(&*packet) {
        *to = *from;
    }
    let marked = Inner::parse(&head, len).is_some_and(|inner| inner.mark_congestion(&mut head));
    for (to, from) in packet.iter_mut().zip(&head) {
        *to = *from;
    }
    marked
}

/// Whether an outer TOS byte says that a router on the way was congested.
#[inline(always)]
pub fn is_congested(tos: u8) -> bool {
    tos & CONGESTION == CONGESTION
}

/// RFC 1624 §3, equation 3.
#[inline(always)]
fn replace_in_checksum(head: &mut InnerHead, old: u16, new: u16) {
    let sum = u64::from(!word(head, 10)) + u64::from(!old) + u64::from(new);
    let checksum = !fold(sum);
    [head[10], head[11]] = checksum.to_be_bytes();
}

#[inline(always)]
fn mapped(head: &InnerHead, at: usize) -> Address {
    let mut address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    address[12..].copy_from_slice(&head[at..at + 4]);
    address
}

#[inline(always)]
fn octets(head: &InnerHead, at: usize) -> Address {
    let mut address = [0; 16];
    address.copy_from_slice(&head[at..at + 16]);
    address
}

/// A word in network order; what lies behind the head is 0.
#[inline(always)]
fn word(head: &InnerHead, at: usize) -> u16 {
    if at < INNER_HEAD - 1 {
        u16::from_be_bytes([head[at], head[at + 1]])
    } else {
        0
    }
}
