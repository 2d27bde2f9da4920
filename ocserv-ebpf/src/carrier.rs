//! What brings records: frames (XDP) and socket buffers (TC).

use aya_ebpf::bindings::bpf_fib_lookup;
use ocserv_common::datagram::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Head};
use ocserv_common::inner::Inner;

use crate::cpu::Cpu;
use crate::packet::{Frame, Skb};
use crate::route;
use crate::rx::Way;

/// A packet from a client, as [`crate::rx`] needs it.
pub trait Carrier {
    /// The kernel knows which checksums are still to be completed, and forgets that of headers that are
    /// taken off.
    const ACCOUNTS_FOR_CHECKSUMS: bool;
    /// It may go on without the stack: by a LAN device (`xdp-forward = direct`), or to a socket.
    const MAY_GO_DIRECT: bool;

    /// Bytes from the Ethernet header on.
    fn len(&self) -> usize;

    /// Bytes of payload of each datagram that was merged into it; 0: it is a single one.
    fn segment(&self) -> u32;

    /// Copies the first bytes out.
    fn load_plain_head(&self, head: &mut Head, len: usize) -> bool;

    /// Copies ciphertext with its tag out.
    fn load_text(&self, offset: usize, to: *mut u8, len: usize) -> bool;

    /// The device that it came by, if answers can go by it as they are: they would go without a tag.
    fn untagged_ingress(&self, head: &Head) -> Option<u32>;

    /// The socket for what comes the same way.
    fn socket(&self) -> Option<u32>;

    /// Asks the routing table.
    fn fib_lookup(&self, fib: &mut bpf_fib_lookup, flags: u32) -> bool;

    /// Whether it can become a packet of `len` bytes, with all done for it that may fail and that nobody
    /// sees. `head` has its first bytes.
    fn prepare(&self, head: &Head, len: usize) -> bool;

    /// Makes it the inner packet on the sheet.
    fn strip(&self, cpu: &mut Cpu, inner: &Inner, way: &Way) -> bool;
}

/// Whether the Ethernet header is followed by an IP header.
#[inline(always)]
fn is_bare(head: &Head) -> bool {
    let ethertype = u16::from_be_bytes([head[12], head[13]]);
    ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6
}

impl Carrier for Frame {
    const ACCOUNTS_FOR_CHECKSUMS: bool = false;
    const MAY_GO_DIRECT: bool = true;

    #[inline(always)]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn load_plain_head(&self, head: &mut Head, len: usize) -> bool {
        self.load_plain_head(head, len)
    }

    #[inline(always)]
    fn load_text(&self, offset: usize, to: *mut u8, len: usize) -> bool {
        self.load_text(offset, to, len)
    }

    #[inline(always)]
    fn untagged_ingress(&self, head: &Head) -> Option<u32> {
        is_bare(head).then(|| self.ingress())
    }

    #[inline(always)]
    fn socket(&self) -> Option<u32> {
        self.socket()
    }

    #[inline(always)]
    fn fib_lookup(&self, fib: &mut bpf_fib_lookup, flags: u32) -> bool {
        self.fib_lookup(fib, flags)
    }

    #[inline(always)]
    fn prepare(&self, _head: &Head, _len: usize) -> bool {
        self.reserve_mark()
    }

    #[inline(always)]
    fn strip(&self, cpu: &mut Cpu, inner: &Inner, way: &Way) -> bool {
        let macs: [u8; 12] = match way {
            Way::Stack => {
                let Some(macs) = cpu.head.first_chunk() else {
                    return false;
                };
                *macs
            }
            Way::Device(_) => route::macs(&cpu.fib),
        };
        let ethertype = if inner.is_ipv4 {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        };
        let header = cpu.ethernet();
        header[..12].copy_from_slice(&macs);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        let new_len = ETHERNET + inner.total_len;
        // The end stays: where it moves, generic XDP leaves the socket buffer with a wrong one, behind
        // which a local receiver appends the next segment.
        let removed = self.len() as i32 - new_len as i32;
        self.adjust_head(removed) && self.store(cpu.ethernet_ptr(), new_len) && self.mark()
    }
}

/// Most bytes that are taken off a socket buffer: the kernel's limit.
const MAX_REMOVED: usize = 0xfff;

impl Carrier for Skb {
    const ACCOUNTS_FOR_CHECKSUMS: bool = true;
    const MAY_GO_DIRECT: bool = false;

    #[inline(always)]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.segment()
    }

    #[inline(always)]
    fn load_plain_head(&self, head: &mut Head, len: usize) -> bool {
        self.load_plain_head(head, len)
    }

    #[inline(always)]
    fn load_text(&self, offset: usize, to: *mut u8, len: usize) -> bool {
        self.load_text(offset, to, len)
    }

    #[inline(always)]
    fn untagged_ingress(&self, _head: &Head) -> Option<u32> {
        (!self.is_tagged()).then(|| self.device())
    }

    #[inline(always)]
    fn socket(&self) -> Option<u32> {
        None
    }

    #[inline(always)]
    fn fib_lookup(&self, fib: &mut bpf_fib_lookup, flags: u32) -> bool {
        self.fib_lookup(fib, flags)
    }

    /// The kernel shortens what it takes for IP: not with a tag in the data. Where it keeps a sum of all
    /// bytes, it subtracts those taken off, which is wrong for all behind an odd number.
    #[inline(always)]
    fn prepare(&self, head: &Head, len: usize) -> bool {
        let old = self.len();
        let removed = old.wrapping_sub(len);
        is_bare(head)
            && removed.is_multiple_of(2)
            && removed <= MAX_REMOVED
            && self.make_writable(old)
    }

    #[inline(always)]
    fn strip(&self, cpu: &mut Cpu, inner: &Inner, _way: &Way) -> bool {
        let removed = self.len() as i32 - (ETHERNET + inner.total_len) as i32;
        self.shrink(removed, inner.is_ipv4)
            && self.store_packet(cpu.inner_ptr(), inner.total_len)
            && self.drop_vlan()
    }
}
