//! What stands before an inner packet that goes to a client: Ethernet, IP, UDP, the record's header.

use crate::datagram::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, RECORD_HEADER, fold};
use crate::kernel::{Address, FlowKey};

/// Room for the headers of one frame.
pub const FRONT: usize = 80;
/// Memory that ends where a record's ciphertext begins.
pub type Front = [u8; FRONT];

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const TTL: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// Type and version of a DTLS 1.2 record of application data.
const RECORD_START: [u8; 3] = [23, 0xfe, 0xfd];

/// A record to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// From `local` to `peer`.
    pub flow: &'a FlowKey,
    /// Destination and source of the Ethernet header.
    pub macs: &'a [u8; 12],
    /// Epoch.
    pub epoch: u16,
    /// Sequence number, 48 bits.
    pub sequence: u64,
    /// Bytes behind the record's header: ciphertext and tag.
    pub length: usize,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// DF of an IPv4 packet.
    pub dont_fragment: bool,
}

/// Whether a flow is of IPv4.
#[inline(always)]
pub fn is_ipv4(flow: &FlowKey) -> bool {
    is_mapped(&flow.peer)
}

/// Whether an address is of IPv4.
#[inline(always)]
pub fn is_mapped(address: &Address) -> bool {
    address[10] == 0xff && address[11] == 0xff && address[..10] == [0; 10]
}

/// Bytes of all headers.
#[inline(always)]
pub fn front_len(is_ipv4: bool) -> usize {
    let ip = if is_ipv4 { IPV4_HEADER } else { IPV6_HEADER };
    ETHERNET + ip + UDP_HEADER + RECORD_HEADER
}

/// Additional data of a record (RFC 6347 §4.1.2.1), padded, as little-endian words.
#[inline(always)]
pub fn additional_data(epoch: u16, sequence: u64, plain_len: usize) -> [u64; 2] {
    let number = u64::from(epoch) << 48 | sequence & 0xffff_ffff_ffff;
    let [kind, major, minor] = RECORD_START;
    let len = (plain_len as u16).to_be_bytes();
    [
        number.swap_bytes(),
        u64::from_le_bytes([kind, major, minor, len[0], len[1], 0, 0, 0]),
    ]
}

/// Nonce of a record (RFC 7905 §2), as little-endian words.
#[inline(always)]
pub fn nonce(iv: &[u32; 3], epoch: u16, sequence: u64) -> [u32; 3] {
    let number = (u64::from(epoch) << 48 | sequence & 0xffff_ffff_ffff).swap_bytes();
    [iv[0], iv[1] ^ number as u32, iv[2] ^ (number >> 32) as u32]
}

/// Writes the headers to the end of `front`; they take [`front_len`] bytes. The UDP checksum comes later:
/// see [`udp_checksum`].
#[inline(always)]
pub fn write(front: &mut Front, out: &Outgoing<'_>) {
    let udp = FRONT - RECORD_HEADER - UDP_HEADER;
    let udp_len = UDP_HEADER + RECORD_HEADER + out.length;
    let start = if is_ipv4(out.flow) {
        let start = udp - IPV4_HEADER;
        write_ipv4(front, start, udp_len, out);
        start
    } else {
        let start = udp - IPV6_HEADER;
        write_ipv6(front, start, udp_len, out);
        start
    };
    put::<12>(front, start - ETHERNET, out.macs);
    let ethertype = if is_ipv4(out.flow) {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    put(front, start - 2, &ethertype.to_be_bytes());
    put(front, udp, &out.flow.local_port);
    put(front, udp + 2, &out.flow.peer_port);
    put(front, udp + 4, &(udp_len as u16).to_be_bytes());
    put(front, udp + 6, &[0, 0]);
    let record = udp + UDP_HEADER;
    put(front, record, &RECORD_START);
    let number = u64::from(out.epoch) << 48 | out.sequence & 0xffff_ffff_ffff;
    put(front, record + 3, &number.to_be_bytes());
    put(front, record + 11, &(out.length as u16).to_be_bytes());
}

#[inline(always)]
fn write_ipv4(front: &mut Front, at: usize, udp_len: usize, out: &Outgoing<'_>) {
    let total = (IPV4_HEADER + udp_len) as u16;
    let flags = if out.dont_fragment { DONT_FRAGMENT } else { 0 };
    // Fragments of two packets must not be taken for one's (RFC 6864 §4.3). Clients behind one address
    // have different ports.
    let id = (out.sequence as u16).wrapping_add(u16::from_be_bytes(out.flow.peer_port));
    put(front, at, &[0x45, out.tos]);
    put(front, at + 2, &total.to_be_bytes());
    put(front, at + 4, &id.to_be_bytes());
    put(front, at + 6, &[flags, 0, TTL, UDP, 0, 0]);
    for n in 0..4 {
        front[at + 12 + n] = out.flow.local[12 + n];
        front[at + 16 + n] = out.flow.peer[12 + n];
    }
    let mut sum = 0;
    for n in 0..IPV4_HEADER / 2 {
        sum += u64::from(u16::from_be_bytes([
            front[at + 2 * n],
            front[at + 2 * n + 1],
        ]));
    }
    put(front, at + 10, &(!fold(sum)).to_be_bytes());
}

#[inline(always)]
fn write_ipv6(front: &mut Front, at: usize, udp_len: usize, out: &Outgoing<'_>) {
    put(front, at, &[0x60 | out.tos >> 4, out.tos << 4, 0, 0]);
    put(front, at + 4, &(udp_len as u16).to_be_bytes());
    put(front, at + 6, &[UDP, TTL]);
    put(front, at + 8, &out.flow.local);
    put(front, at + 24, &out.flow.peer);
}

/// Bytes that the UDP checksum covers before the ciphertext: the addresses, which stand before the UDP
/// header, and both headers behind them.
#[inline(always)]
pub fn checksum_cover(is_ipv4: bool) -> usize {
    let addresses = if is_ipv4 { 8 } else { 32 };
    addresses + UDP_HEADER + RECORD_HEADER
}

/// The UDP checksum from the sum of all 16-bit words, as they lie in memory, from the addresses to the
/// record's end. 0 is sent as all ones, since it would mean that there is none. IPv4 could do without
/// one, but not every router that changes ports knows it.
#[inline(always)]
pub fn udp_checksum(sum: u64, udp_len: usize) -> [u8; 2] {
    // The sum of swapped words is the swapped sum (RFC 1071 §2 B).
    let rest = u64::from(u16::from(UDP).to_be()) + u64::from((udp_len as u16).to_be());
    let checksum = !fold(sum + rest);
    if checksum == 0 {
        [0xff, 0xff]
    } else {
        checksum.to_ne_bytes()
    }
}

/// Puts a finished checksum into the UDP header.
#[inline(always)]
pub fn set_udp_checksum(front: &mut Front, checksum: [u8; 2]) {
    put(front, FRONT - RECORD_HEADER - 2, &checksum);
}

#[inline(always)]
fn put<const N: usize>(front: &mut Front, at: usize, bytes: &[u8; N]) {
    front[at..at + N].copy_from_slice(bytes);
}
