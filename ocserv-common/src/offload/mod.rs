//! Super-packets: many packets of one flow that pass a tun device as one, with a header that says
//! how to cut them (virtio 1.2 §5.1.6, as Linux's tun uses it with `IFF_VNET_HDR`).
//!
//! [`segment`] cuts what the kernel hands out, [`coalesce`] finds what may be handed to it as one.
//! Neither allocates, and neither trusts a byte.

pub mod checksum;
pub mod coalesce;
mod flow;
pub mod segment;
pub mod super_packet;
pub mod vnet;

#[cfg(all(test, not(loom)))]
mod samples;
#[cfg(all(test, not(loom)))]
mod tests;

/// Longest super-packet in bytes: IPv4's total length has 16 bits.
pub const MAX_SUPER_PACKET: usize = 65535;
/// Packets that go as one at most: what the kernel allows for UDP (`UDP_MAX_SEGMENTS` before 6.9).
pub const MAX_SEGMENTS: usize = 64;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM: usize = 16;
/// Where a UDP header has its checksum.
const UDP_CHECKSUM: usize = 6;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn get16(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2).and_then(|bytes| bytes.first_chunk());
    word.map_or(0, |word| u16::from_be_bytes(*word))
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    word.map_or(0, |word| u32::from_be_bytes(*word))
}

fn get8(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

/// Writes where there is room: callers have checked that there is.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
