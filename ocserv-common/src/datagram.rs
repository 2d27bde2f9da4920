//! The outer headers of a frame: Ethernet, VLAN tags, IPv4 or IPv6, UDP, and the DTLS record header
//! behind them. Read without trust, from the first bytes of the frame.

use crate::kernel::FlowKey;

/// Bytes of a frame that are looked at.
pub const HEAD: usize = 160;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a DTLS record header (RFC 6347 §4.1).
pub const RECORD_HEADER: usize = 13;

/// Ethernet type of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// VLAN tags that are skipped.
const MAX_TAGS: usize = 2;
const VLAN_TAG: usize = 4;

const IPV4_HEADER: usize = 20;
/// First byte of an IPv4 header without options.
const IPV4_PLAIN: u8 = 0x45;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// Of an IPv4 header: more fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Extension header of IPv6 fragments.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;
/// IPv6 extension headers that are skipped: hop-by-hop options, routing, destination options.
const SKIPPED: [u8; 3] = [0, 43, 60];
/// Extension headers that are looked at.
const MAX_EXTENSIONS: usize = 4;

const APPLICATION_DATA: u8 = 23;
const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];

/// Bytes that [`parse`] looks at if the frame [`is_plain`]: of Ethernet, IPv6, UDP and record header,
/// in whole words.
pub const PLAIN: usize = 80;

/// The first bytes of a frame.
pub type Head = [u8; HEAD];

/// Why a frame is not for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Not UDP in IP.
    Other,
    /// UDP that no program reads: a fragment without its beginning, an extension header that it does not
    /// know, headers longer than [`HEAD`], or lengths that do not agree.
    Form,
    /// A DTLS record other than application data.
    Control,
}

/// A frame with one DTLS record of application data that fills its datagram, or with the beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the record's header begins in the frame.
    pub offset: usize,
    /// Epoch.
    pub epoch: u16,
    /// Sequence number, 48 bits.
    pub sequence: u64,
    /// Bytes behind the header.
    pub length: usize,
    /// The outer TOS or traffic class byte.
    pub tos: u8,
    /// The UDP checksum is only the sum of the pseudo header: the packet came from this machine, and a
    /// device was to complete it. One in 65,536 finished checksums looks the same.
    pub has_open_checksum: bool,
    /// The frame has the beginning alone, the datagram's first fragment.
    pub is_fragment: bool,
}

/// A datagram within a frame.
struct Datagram {
    /// Where the UDP header begins.
    udp: usize,
    /// Bytes of UDP header and payload that the IP header leaves room for.
    room: usize,
    tos: u8,
    /// Sum of the words of both addresses.
    addresses: u64,
    /// What is there is the first fragment.
    is_fragment: bool,
}

/// Reads the headers of a frame of `frame_len` bytes, of which `head` has the first. Writes addresses
/// and ports to `flow`, whose content means nothing after an error.
///
/// A frame that the kernel merged of several has one header and the payload of `segment` bytes each behind
/// it; what is read is the first record. 0: it is not merged.
///
/// # Errors
/// [`NotOurs`]: the frame is for the host's stack.
#[inline(always)]
pub fn parse(
    head: &Head,
    frame_len: usize,
    segment: usize,
    flow: &mut FlowKey,
) -> Result<Record, NotOurs> {
    // The common case by itself: all offsets are constants then.
    if word(head, 12) == ETHERTYPE_IPV4 && head[ETHERNET] == IPV4_PLAIN {
        let datagram = ipv4(head, ETHERNET, IPV4_PLAIN, flow)?;
        return payload(head, frame_len, segment, flow, &datagram);
    }
    let (ethertype, start) = network_header(head);
    let datagram = match ethertype {
        ETHERTYPE_IPV4 => ipv4(head, start, byte(head, start), flow)?,
        ETHERTYPE_IPV6 => ipv6(head, start, flow)?,
        _ => return Err(NotOurs::Other),
    };
    payload(head, frame_len, segment, flow, &datagram)
}

/// Reads what follows the IP header.
#[inline(always)]
fn payload(
    head: &Head,
    frame_len: usize,
    segment: usize,
    flow: &mut FlowKey,
    datagram: &Datagram,
) -> Result<Record, NotOurs> {
    let udp = datagram.udp;
    let udp_len = usize::from(word(head, udp + 4));
    let offset = udp + UDP_HEADER;
    let present = if datagram.is_fragment {
        UDP_HEADER + RECORD_HEADER
    } else {
        udp_len
    };
    let fits = present <= datagram.room
        && udp_len >= UDP_HEADER + RECORD_HEADER
        && udp + present <= frame_len
        && offset + RECORD_HEADER <= HEAD;
    if !fits {
        return Err(NotOurs::Form);
    }
    flow.peer_port = [byte(head, udp), byte(head, udp + 1)];
    flow.local_port = [byte(head, udp + 2), byte(head, udp + 3)];
    let payload = if segment == 0 {
        udp_len - UDP_HEADER
    } else {
        segment
    };
    let record = record(head, offset, payload, datagram.tos)?;
    Ok(Record {
        has_open_checksum: checksum_is_open(datagram, udp_len, word(head, udp + 6)),
        is_fragment: datagram.is_fragment,
        ..record
    })
}

/// Whether neither VLAN tags nor options nor extension headers stand before the UDP header.
#[inline(always)]
pub fn is_plain(head: &Head) -> bool {
    match word(head, 12) {
        ETHERTYPE_IPV4 => head[ETHERNET] == IPV4_PLAIN,
        ETHERTYPE_IPV6 => head[ETHERNET + 6] == UDP,
        _ => false,
    }
}

/// Ethernet type behind VLAN tags, and where the network header begins.
#[inline(always)]
pub fn network_header(head: &Head) -> (u16, usize) {
    let mut ethertype = word(head, 12);
    let mut start = ETHERNET;
    for _ in 0..MAX_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = word(head, start + 2);
        start += VLAN_TAG;
    }
    (ethertype, start)
}

#[inline(always)]
fn ipv4(head: &Head, start: usize, first: u8, flow: &mut FlowKey) -> Result<Datagram, NotOurs> {
    if first >> 4 != 4 || byte(head, start + 9) != UDP {
        return Err(NotOurs::Other);
    }
    let header_len = usize::from(first & 0x0f) * 4;
    let total_len = usize::from(word(head, start + 2));
    // All of the fragment word but DF.
    let fragment = word(head, start + 6) & 0xbfff;
    let begins = fragment == 0 || fragment == MORE_FRAGMENTS;
    if header_len < IPV4_HEADER || total_len < header_len || !begins {
        return Err(NotOurs::Form);
    }
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    flow.peer = mapped;
    flow.local = mapped;
    let addresses = copy_addresses::<12>(head, start + 12, flow);
    Ok(Datagram {
        udp: start + header_len,
        room: total_len - header_len,
        tos: byte(head, start + 1),
        addresses,
        is_fragment: fragment != 0,
    })
}

#[inline(always)]
fn ipv6(head: &Head, start: usize, flow: &mut FlowKey) -> Result<Datagram, NotOurs> {
    if byte(head, start) >> 4 != 6 {
        return Err(NotOurs::Other);
    }
    let payload_len = usize::from(word(head, start + 4));
    let mut next = byte(head, start + 6);
    let mut at = start + IPV6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        if !SKIPPED.contains(&next) {
            break;
        }
        next = byte(head, at);
        at += (usize::from(byte(head, at + 1)) + 1) * 8;
        if at > HEAD {
            return Err(NotOurs::Form);
        }
    }
    let is_fragment = next == FRAGMENT;
    if is_fragment {
        let offset = word(head, at + 2) & !7;
        next = byte(head, at);
        if offset != 0 && next == UDP {
            return Err(NotOurs::Form);
        }
        at += FRAGMENT_HEADER;
    }
    if next != UDP {
        return Err(if SKIPPED.contains(&next) {
            NotOurs::Form
        } else {
            NotOurs::Other
        });
    }
    let addresses = copy_addresses::<0>(head, start + 8, flow);
    let end = start + IPV6_HEADER + payload_len;
    Ok(Datagram {
        udp: at,
        room: end.saturating_sub(at),
        tos: (word(head, start) >> 4) as u8,
        addresses,
        is_fragment,
    })
}

#[inline(always)]
fn record(head: &Head, at: usize, payload: usize, tos: u8) -> Result<Record, NotOurs> {
    if [byte(head, at + 1), byte(head, at + 2)] != DTLS_1_2 {
        return Err(NotOurs::Other);
    }
    if byte(head, at) != APPLICATION_DATA {
        return Err(NotOurs::Control);
    }
    let length = usize::from(word(head, at + 11));
    if RECORD_HEADER + length != payload {
        return Err(NotOurs::Form);
    }
    let part = |n: usize| u64::from(word(head, at + n));
    Ok(Record {
        offset: at,
        epoch: word(head, at + 3),
        sequence: part(5) << 32 | part(7) << 16 | part(9),
        length,
        tos,
        has_open_checksum: false,
        is_fragment: false,
    })
}

/// Copies source and destination, which lie at `at`, to the flow's addresses from byte `FROM` on. Gives
/// the sum of their words.
#[inline(always)]
fn copy_addresses<const FROM: usize>(head: &Head, at: usize, flow: &mut FlowKey) -> u64 {
    let len = 16 - FROM;
    let mut sum = 0;
    for n in (0..len).step_by(2) {
        let (peer, local) = (word(head, at + n), word(head, at + len + n));
        [flow.peer[FROM + n], flow.peer[FROM + n + 1]] = peer.to_be_bytes();
        [flow.local[FROM + n], flow.local[FROM + n + 1]] = local.to_be_bytes();
        sum += u64::from(peer) + u64::from(local);
    }
    sum
}

/// See [`Record::has_open_checksum`].
#[inline(always)]
fn checksum_is_open(datagram: &Datagram, udp_len: usize, checksum: u16) -> bool {
    fold(datagram.addresses + u64::from(UDP) + udp_len as u64) == checksum
}

/// A sum of 16-bit words in ones' complement.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A byte of the head; what lies behind it is 0.
#[inline(always)]
fn byte(head: &Head, at: usize) -> u8 {
    if at < HEAD { head[at] } else { 0 }
}

/// A word in network order.
#[inline(always)]
fn word(head: &Head, at: usize) -> u16 {
    u16::from_be_bytes([byte(head, at), byte(head, at + 1)])
}
