//! `struct virtio_net_hdr`: what stands before each packet of a tun queue with `IFF_VNET_HDR`.

/// Its length in bytes; the tun device has no longer one unless told.
pub const VNET_HEADER: usize = 10;

/// The checksum field holds only the pseudo-header's sum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub const NEEDS_CHECKSUM: u8 = 1;
/// The checksum field is whole, and right (`VIRTIO_NET_HDR_F_DATA_VALID`).
pub const DATA_VALID: u8 = 2;
/// Not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP over either, one datagram a segment.
pub const GSO_UDP_L4: u8 = 5;
/// A bit beside the type: the first segment alone has CWR.
pub const GSO_ECN: u8 = 0x80;

/// How to treat the packet behind it. Lengths and offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CHECKSUM`], [`DATA_VALID`] or nothing; other bits may be ignored.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Length of the headers. From the kernel only a hint: of what it forwards, it is that of the
    /// buffer's first part.
    pub header_len: u16,
    /// Payload of each segment but the last, which may have less.
    pub gso_size: u16,
    /// Where the checksum begins to count.
    pub checksum_start: u16,
    /// Where it is to be written, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Reads it. Its words are in the machine's own order: nobody asked the device for another.
    pub fn read(bytes: &[u8; VNET_HEADER]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; VNET_HEADER] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

#[cfg(all(test, not(loom), target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn is_laid_out_as_the_kernel_has_it() {
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            header_len: 0x0102,
            gso_size: 0x0304,
            checksum_start: 0x0506,
            checksum_offset: 0x0708,
        };
        let bytes = [1, 0x84, 2, 1, 4, 3, 6, 5, 8, 7];
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(VnetHeader::read(&bytes), header);
    }
}
