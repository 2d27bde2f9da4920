//! A super-packet from the kernel, cut as its own segmentation does it (`tcp_gso_segment`,
//! `__udp_gso_segment`, `inet_gso_segment`), and checksums that it left to the device.

use super::checksum::{fold, sum};
use super::flow::{addresses, checksums_hold, network_len};
use super::vnet::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM, VnetHeader,
};
use super::{
    IPV4_HEADER, IPV6_HEADER, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, get8,
    get16, get32, put,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const TCP_FLAGS: usize = 13;

/// The header before a packet does not fit the packet, or a segment not its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Where one packet's segments are up to. The packet itself stays with the caller.
#[derive(Clone, Copy, Debug)]
pub struct Segmenter {
    cut: Option<Cut>,
    /// Length of the packet.
    total: usize,
    /// Where the payload of the next segment begins.
    next: usize,
    /// Its number.
    index: usize,
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    is_ipv4: bool,
    is_tcp: bool,
    /// Where TCP or UDP begins.
    transport: usize,
    /// Bytes of all headers.
    headers: usize,
    /// Payload of a segment.
    size: usize,
    /// Sum of the pseudo-header without the length.
    pseudo: u32,
}

impl Segmenter {
    /// Looks at what came as one packet. A checksum that is left to the device is completed in place,
    /// unless there are segments to have their own. None of them will be longer than `room`.
    ///
    /// # Errors
    /// [`Malformed`]; the packet must be dropped.
    pub fn new(header: &VnetHeader, packet: &mut [u8], room: usize) -> Result<Self, Malformed> {
        let mut segmenter = Self {
            cut: None,
            total: packet.len(),
            next: 0,
            index: 0,
        };
        if header.gso_type == GSO_NONE {
            if header.flags & NEEDS_CHECKSUM != 0 {
                complete(header, packet)?;
            }
            return fits(packet.len(), room).map(|()| segmenter);
        }
        let cut = Cut::new(header, packet)?;
        let longest = (cut.headers + cut.size).min(packet.len());
        fits(longest, room)?;
        segmenter.next = cut.headers;
        segmenter.cut = Some(cut);
        Ok(segmenter)
    }

    /// Whether no segment is left.
    pub fn is_done(&self) -> bool {
        self.next >= self.total
    }

    /// Writes the next segment of `packet`, the one that this was made for, into `out`; its length,
    /// or `None` when there is none left, or not the room that was promised.
    pub fn next(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.is_done() {
            return None;
        }
        let Some(cut) = &self.cut else {
            self.next = self.total;
            out.get_mut(..packet.len())?.copy_from_slice(packet);
            return Some(packet.len());
        };
        let end = self.total.min(self.next + cut.size);
        let payload = packet.get(self.next..end)?;
        let headers = packet.get(..cut.headers)?;
        let out = out.get_mut(..cut.headers + payload.len())?;
        let (out_headers, out_payload) = out.split_at_mut(cut.headers);
        out_headers.copy_from_slice(headers);
        out_payload.copy_from_slice(payload);
        let last = end == self.total;
        cut.write_headers(out_headers, payload, self.index, last);
        self.next = end;
        self.index += 1;
        Some(cut.headers + payload.len())
    }
}

fn fits(len: usize, room: usize) -> Result<(), Malformed> {
    if len <= room { Ok(()) } else { Err(Malformed) }
}

/// Completes the checksum of a packet that is not cut (`skb_checksum_help`).
fn complete(header: &VnetHeader, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if packet.len() < at + 2 {
        return Err(Malformed);
    }
    // The field has the pseudo-header's sum, and counts.
    let checksum = !fold(sum(packet.get(start..).ok_or(Malformed)?));
    put(packet, at, &not_zero(checksum).to_be_bytes());
    Ok(())
}

/// 0 would mean "none" to UDP; 0xffff is the same number.
fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

impl Cut {
    fn new(header: &VnetHeader, packet: &[u8]) -> Result<Self, Malformed> {
        let kind = header.gso_type & !GSO_ECN;
        let (is_tcp, version) = match kind {
            GSO_TCPV4 => (true, 4),
            GSO_TCPV6 => (true, 6),
            GSO_UDP_L4 => (false, get8(packet, 0) >> 4),
            _ => return Err(Malformed),
        };
        let protocol = if is_tcp { TCP } else { UDP };
        let transport = transport_offset(packet, protocol).ok_or(Malformed)?;
        let (transport_len, field) = if is_tcp {
            let len = usize::from(get8(packet, transport + 12) >> 4) * 4;
            (len, TCP_CHECKSUM)
        } else {
            (UDP_HEADER, UDP_CHECKSUM)
        };
        let pseudo = if header.flags & NEEDS_CHECKSUM != 0 {
            let there = usize::from(header.checksum_start) == transport
                && usize::from(header.checksum_offset) == field;
            there.then(|| pseudo_without_length(packet, transport, field))
        } else {
            pseudo_of_whole(header, packet, transport, protocol)
        };
        let cut = Self {
            is_ipv4: version == 4,
            is_tcp,
            transport,
            headers: transport + transport_len,
            size: header.gso_size.into(),
            pseudo: pseudo.ok_or(Malformed)?,
        };
        let sound = get8(packet, 0) >> 4 == version
            && (!is_tcp || transport_len >= TCP_HEADER)
            && cut.size > 0
            && cut.headers < packet.len();
        sound.then_some(cut).ok_or(Malformed)
    }

    /// Turns a copy of the super-packet's headers into those of segment number `index`.
    fn write_headers(&self, headers: &mut [u8], payload: &[u8], index: usize, last: bool) {
        let len = headers.len() + payload.len();
        let (network, transport) = headers.split_at_mut(self.transport);
        let transport_len = len - self.transport;
        if self.is_tcp {
            self.write_tcp(transport, index, last);
        } else {
            put(transport, 4, &(transport_len as u16).to_be_bytes());
        }
        let field = if self.is_tcp {
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        };
        put(transport, field, &[0, 0]);
        let total = self.pseudo + transport_len as u32 + sum(transport) + sum(payload);
        let checksum = !fold(total);
        // As the kernel has it: TCP's may be 0.
        let checksum = if self.is_tcp {
            checksum
        } else {
            not_zero(checksum)
        };
        put(transport, field, &checksum.to_be_bytes());
        if self.is_ipv4 {
            write_ipv4(network, len, index);
        } else {
            put(network, 4, &((len - IPV6_HEADER) as u16).to_be_bytes());
        }
    }

    fn write_tcp(&self, tcp: &mut [u8], index: usize, last: bool) {
        let sequence = get32(tcp, 4).wrapping_add((index * self.size) as u32);
        put(tcp, 4, &sequence.to_be_bytes());
        let mut flags = get8(tcp, TCP_FLAGS);
        if !last {
            flags &= !(FIN | PSH);
        }
        if index > 0 {
            flags &= !CWR;
        }
        put(tcp, TCP_FLAGS, &[flags]);
    }
}

fn write_ipv4(network: &mut [u8], len: usize, index: usize) {
    let id = get16(network, 4).wrapping_add(index as u16);
    put(network, 2, &(len as u16).to_be_bytes());
    put(network, 4, &id.to_be_bytes());
    put(network, 10, &[0, 0]);
    let checksum = !fold(sum(network));
    put(network, 10, &checksum.to_be_bytes());
}

/// The checksum field of a super-packet holds the sum of its pseudo-header. It is right for addresses
/// that a routing header replaces too; only the length in it is not a segment's.
fn pseudo_without_length(packet: &[u8], transport: usize, field: usize) -> u32 {
    let len = packet.len().saturating_sub(transport) as u16;
    u32::from(get16(packet, transport + field)) + u32::from(!len)
}

/// The same of a packet whose checksum field is whole. Segments get right checksums, so a wrong one must
/// not come this far: the device says that it is right, or it is looked at here.
fn pseudo_of_whole(
    header: &VnetHeader,
    packet: &[u8],
    transport: usize,
    protocol: u8,
) -> Option<u32> {
    // Options and extension headers may name other addresses, which the checksum counts.
    let plain = transport == network_len(packet);
    let right = plain && (header.flags & DATA_VALID != 0 || checksums_hold(packet));
    right.then(|| sum(addresses(packet)) + u32::from(protocol))
}

/// Where the header of `protocol` begins, if the IP header is one and announces what is there.
fn transport_offset(packet: &[u8], protocol: u8) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => {
            let offset = usize::from(get8(packet, 0) & 0x0f) * 4;
            let whole = usize::from(get16(packet, 2)) == packet.len();
            let fragment = get16(packet, 6) & 0x3fff != 0;
            let sound = offset >= IPV4_HEADER && whole && !fragment && get8(packet, 9) == protocol;
            (sound && offset < packet.len()).then_some(offset)
        }
        6 => {
            let whole = IPV6_HEADER + usize::from(get16(packet, 4)) == packet.len();
            whole.then(|| behind_extensions(packet, protocol)).flatten()
        }
        _ => None,
    }
}

fn behind_extensions(packet: &[u8], protocol: u8) -> Option<usize> {
    let mut next = *packet.get(6)?;
    let mut offset = IPV6_HEADER;
    while next != protocol {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            return None;
        }
        // Each has 8 bytes at least, so this ends.
        next = *packet.get(offset)?;
        offset += 8 + 8 * usize::from(*packet.get(offset + 1)?);
    }
    (offset < packet.len()).then_some(offset)
}
