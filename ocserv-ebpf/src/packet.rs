//! Frames and packets, by the kernel's helpers. With `maps` and `cpu` the only unsafe code.

use core::arch::asm;

use aya_ebpf::bindings::{__sk_buff, bpf_fib_lookup, xdp_md};
use aya_ebpf::helpers::generated as helpers;
use ocserv_common::aead::MAX_TEXT;
use ocserv_common::datagram::{self, ETHERNET, HEAD, Head, PLAIN};
use ocserv_common::encapsulation::FRONT;
use ocserv_common::inner::{INNER_HEAD, InnerHead};
use ocserv_common::kernel::RouteFrame;

use crate::maps;

/// Bytes of a tag.
pub const TAG: usize = 16;
/// Bytes of the mark that `xdp_rx` leaves for `tc_deliver` in the frame's metadata.
const MARK_LEN: usize = 4;
/// The mark: this frame is an inner packet.
const MARK: u32 = 0x6f63_7870;
/// Longest piece that is written at once.
const MAX_PIECE: usize = FRONT + MAX_TEXT + TAG;

/// A frame as XDP sees it.
pub struct Frame(pub *mut xdp_md);

/// A packet as TC sees it.
pub struct Skb(pub *mut __sk_buff);

/// Hides from the compiler what it knows of a number. The verifier has to learn it from the check that
/// follows, which the compiler would otherwise leave out or tear apart.
#[inline(always)]
fn opaque(mut number: u64) -> u64 {
    // SAFETY: a register is copied to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number
}

/// Eight bytes of a frame, whose bounds were checked. In one instruction: the verifier allows it where the
/// processor does, the compiler does not know.
#[inline(always)]
fn packet_word(at: usize) -> u64 {
    let word;
    // SAFETY: the verifier knows what was checked.
    unsafe { asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) at) };
    word
}

/// Copies the first [`PLAIN`] bytes of a frame, whose bounds were checked.
#[inline(always)]
fn copy_plain(data: usize, head: &mut Head) {
    let to = head.as_mut_ptr().cast::<u64>();
    for n in 0..PLAIN / 8 {
        let word = packet_word(data + 8 * n);
        // SAFETY: within the head, which lies aligned in working memory.
        let to = unsafe { to.add(n) };
        // SAFETY: as above.
        unsafe { to.write(word) };
    }
}

/// A length between 1 and `most`, in the form that helpers want.
#[inline(always)]
fn bounded(len: usize, most: usize) -> Option<u32> {
    let len = opaque(len as u64);
    (len != 0 && len <= most as u64).then_some(len as u32)
}

/// Milliseconds of `CLOCK_MONOTONIC`, as of the last timer interrupt.
#[inline(always)]
pub fn now_ms() -> u64 {
    // SAFETY: a call without arguments.
    let nanoseconds = unsafe { helpers::bpf_ktime_get_coarse_ns() };
    nanoseconds / 1_000_000
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a call without arguments.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// Sum of the 16-bit words of memory, as they lie in it. `len` is a multiple of 4, and at most
/// [`MAX_SUMMED`].
#[inline(always)]
pub fn sum(from: *mut u8, len: usize) -> Option<u64> {
    let mut seed = 0;
    let mut left = len;
    for piece in 0..MAX_SUMMED / SUMMED_AT_ONCE {
        if left == 0 {
            break;
        }
        let at_once = if left < SUMMED_AT_ONCE {
            left
        } else {
            SUMMED_AT_ONCE
        };
        let len = bounded(at_once, SUMMED_AT_ONCE)?;
        // SAFETY: the verifier checks that the memory is the program's.
        let from = unsafe { from.add(piece * SUMMED_AT_ONCE) };
        // SAFETY: as above.
        let sum =
            unsafe { helpers::bpf_csum_diff(core::ptr::null_mut(), 0, from.cast(), len, seed) };
        seed = u32::try_from(sum).ok()?;
        left -= at_once;
    }
    (left == 0).then_some(u64::from(seed))
}

/// Most bytes that [`sum`] takes.
const MAX_SUMMED: usize = 2048;
/// Most bytes that kernels before 6.13 sum in a call.
const SUMMED_AT_ONCE: usize = 512;

/// Asks the routing table. The answer is where the question was.
#[inline(always)]
fn fib_lookup(context: *mut core::ffi::c_void, fib: &mut bpf_fib_lookup, flags: u32) -> bool {
    let fib = &raw mut *fib;
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the verifier checks context and memory.
    unsafe { helpers::bpf_fib_lookup(context, fib, len, flags) == 0 }
}

impl Frame {
    /// Its length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        // SAFETY: the kernel's context.
        let start = unsafe { (*self.0).data };
        // SAFETY: the kernel's context.
        let end = unsafe { (*self.0).data_end };
        // Pointers to the verifier, although the context shows them in 32 bits: kept whole.
        (opaque(u64::from(end)) - opaque(u64::from(start))) as usize
    }

    /// The device that it came by.
    #[inline(always)]
    pub fn ingress(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The queue of that device.
    #[inline(always)]
    pub fn queue(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).rx_queue_index }
    }

    /// The socket for what that queue receives.
    #[inline(always)]
    pub fn socket(&self) -> Option<u32> {
        maps::socket(self.ingress(), self.queue())
    }

    /// Copies a question to the routing table out.
    #[inline(always)]
    pub fn load_question(&self, question: &mut RouteFrame) -> bool {
        let to = (&raw mut *question).cast::<u8>();
        self.load(0, to, RouteFrame::LEN, RouteFrame::LEN)
    }

    /// Overwrites it, with its answer.
    #[inline(always)]
    pub fn store_answer(&self, answer: &mut RouteFrame) -> bool {
        self.store((&raw mut *answer).cast(), RouteFrame::LEN)
    }

    /// Copies the first bytes out.
    #[inline(always)]
    pub fn load_head(&self, head: &mut Head, len: usize) -> bool {
        let len = if len < HEAD { len } else { HEAD };
        self.load(0, head.as_mut_ptr(), len, HEAD)
    }

    /// The same, but only the first [`PLAIN`] bytes if the frame [`is_plain`](datagram::is_plain): nobody
    /// looks at more of it then, and a call is saved.
    #[inline(always)]
    pub fn load_plain_head(&self, head: &mut Head, len: usize) -> bool {
        // SAFETY: the kernel's context.
        let data = unsafe { (*self.0).data as usize };
        // SAFETY: as above.
        let end = unsafe { (*self.0).data_end as usize };
        if data + PLAIN > end {
            return self.load_head(head, len);
        }
        copy_plain(data, head);
        datagram::is_plain(head) || self.load_head(head, len)
    }

    /// Copies an inner packet out, or ciphertext with its tag.
    #[inline(always)]
    pub fn load_text(&self, offset: usize, to: *mut u8, len: usize) -> bool {
        self.load(offset, to, len, MAX_TEXT + TAG)
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, len: usize, most: usize) -> bool {
        let Some(len) = bounded(len, most) else {
            return false;
        };
        // SAFETY: the kernel checks the frame's bounds, the verifier those of the memory.
        unsafe { helpers::bpf_xdp_load_bytes(self.0, offset as u32, to.cast(), len) == 0 }
    }

    /// Overwrites the beginning.
    #[inline(always)]
    pub fn store(&self, from: *mut u8, len: usize) -> bool {
        let Some(len) = bounded(len, MAX_PIECE) else {
            return false;
        };
        // SAFETY: the kernel checks the frame's bounds, the verifier those of the memory.
        unsafe { helpers::bpf_xdp_store_bytes(self.0, 0, from.cast(), len) == 0 }
    }

    /// Cuts `delta` bytes off the beginning, or adds some.
    #[inline(always)]
    pub fn adjust_head(&self, delta: i32) -> bool {
        // SAFETY: the kernel checks the room.
        unsafe { helpers::bpf_xdp_adjust_head(self.0, delta) == 0 }
    }

    /// Makes room for the mark. `false`: the driver has none.
    #[inline(always)]
    pub fn reserve_mark(&self) -> bool {
        // SAFETY: the kernel checks the room.
        unsafe { helpers::bpf_xdp_adjust_meta(self.0, -(MARK_LEN as i32)) == 0 }
    }

    /// Writes the mark.
    #[inline(always)]
    pub fn mark(&self) -> bool {
        // SAFETY: the kernel's context.
        let mark = unsafe { (*self.0).data_meta } as usize;
        // SAFETY: the kernel's context.
        let data = unsafe { (*self.0).data } as usize;
        if mark + MARK_LEN > data {
            return false;
        }
        // SAFETY: within the metadata, as just checked.
        unsafe { (mark as *mut u32).write(MARK) };
        true
    }

    /// Asks the routing table.
    #[inline(always)]
    pub fn fib_lookup(&self, fib: &mut bpf_fib_lookup, flags: u32) -> bool {
        fib_lookup(self.0.cast(), fib, flags)
    }
}

impl Skb {
    /// Its length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).len as usize }
    }

    /// Bytes of payload of each packet that it stands for; 0: it is a single one.
    #[inline(always)]
    pub fn segment(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).gso_size }
    }

    /// The device whose program runs.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).ifindex }
    }

    /// Whether this host made it.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).ingress_ifindex == 0 }
    }

    /// Whether `xdp_rx` marked it.
    #[inline(always)]
    pub fn is_marked(&self) -> bool {
        // SAFETY: the kernel's context.
        let mark = unsafe { (*self.0).data_meta } as usize;
        // SAFETY: the kernel's context.
        let data = unsafe { (*self.0).data } as usize;
        if mark + MARK_LEN > data {
            return false;
        }
        // SAFETY: within the metadata, as just checked.
        unsafe { (mark as *const u32).read() == MARK }
    }

    /// Whether it has a VLAN tag that was already taken out of the frame.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: the kernel's context.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Removes such a tag.
    #[inline(always)]
    pub fn drop_vlan(&self) -> bool {
        // SAFETY: the helper checks the packet.
        !self.is_tagged() || unsafe { helpers::bpf_skb_vlan_pop(self.0) == 0 }
    }

    /// Makes the stack compute the inner checksum itself: what the device verified was the outer one.
    #[inline(always)]
    pub fn distrust_checksum(&self) {
        const RESET: u64 = 3;
        // SAFETY: the helper checks the packet.
        unsafe { helpers::bpf_csum_level(self.0, RESET) };
    }

    /// Copies the first bytes of an inner packet out.
    #[inline(always)]
    pub fn load_inner_head(&self, head: &mut InnerHead, len: usize) -> bool {
        let len = if len < INNER_HEAD { len } else { INNER_HEAD };
        self.load(0, head.as_mut_ptr(), len, INNER_HEAD)
    }

    /// Copies the first bytes of a frame out, as [`Frame::load_plain_head`].
    #[inline(always)]
    pub fn load_plain_head(&self, head: &mut Head, len: usize) -> bool {
        // SAFETY: the kernel's context.
        let data = unsafe { (*self.0).data as usize };
        // SAFETY: as above.
        let end = unsafe { (*self.0).data_end as usize };
        if data + PLAIN <= end {
            copy_plain(data, head);
            if datagram::is_plain(head) {
                return true;
            }
        }
        let len = if len < HEAD { len } else { HEAD };
        self.load(0, head.as_mut_ptr(), len, HEAD)
    }

    /// Copies an inner packet out, or ciphertext with its tag.
    #[inline(always)]
    pub fn load_text(&self, offset: usize, to: *mut u8, len: usize) -> bool {
        self.load(offset, to, len, MAX_TEXT + TAG)
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, len: usize, most: usize) -> bool {
        let Some(len) = bounded(len, most) else {
            return false;
        };
        // SAFETY: the kernel checks the packet's bounds, the verifier those of the memory.
        unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), offset as u32, to.cast(), len) == 0 }
    }

    /// Overwrites the beginning.
    #[inline(always)]
    pub fn store(&self, from: *mut u8, len: usize) -> bool {
        let Some(len) = bounded(len, MAX_PIECE) else {
            return false;
        };
        // SAFETY: the kernel checks the packet's bounds, the verifier those of the memory.
        unsafe { helpers::bpf_skb_store_bytes(self.0.cast(), 0, from.cast(), len, 0) == 0 }
    }

    /// Overwrites what is behind the Ethernet header. Where the device has summed all bytes from there on,
    /// the sum follows; and flows are told apart anew.
    #[inline(always)]
    pub fn store_packet(&self, from: *mut u8, len: usize) -> bool {
        const RECOMPUTE_SUM: u64 = 1;
        const FORGET_HASH: u64 = 1 << 1;
        const FLAGS: u64 = RECOMPUTE_SUM | FORGET_HASH;
        const AT: u32 = ETHERNET as u32;
        let Some(len) = bounded(len, MAX_TEXT) else {
            return false;
        };
        // SAFETY: the kernel checks the packet's bounds, the verifier those of the memory.
        unsafe { helpers::bpf_skb_store_bytes(self.0.cast(), AT, from.cast(), len, FLAGS) == 0 }
    }

    /// Brings its first `len` bytes together, in memory that nobody else reads.
    #[inline(always)]
    pub fn make_writable(&self, len: usize) -> bool {
        // SAFETY: the kernel checks the length.
        unsafe { helpers::bpf_skb_pull_data(self.0, len as u32) == 0 }
    }

    /// Cuts `removed` bytes off behind the Ethernet header, so that it holds a packet of that family. What
    /// the device verified is forgotten, and what one was to complete in these bytes.
    #[inline(always)]
    pub fn shrink(&self, removed: i32, is_ipv4: bool) -> bool {
        const AFTER_MAC: u32 = 1;
        const DECAP_IPV4: u64 = 1 << 7;
        const DECAP_IPV6: u64 = 1 << 8;
        let flags = if is_ipv4 { DECAP_IPV4 } else { DECAP_IPV6 };
        // SAFETY: the kernel checks the room.
        unsafe { helpers::bpf_skb_adjust_room(self.0, -removed, AFTER_MAC, flags) == 0 }
    }

    /// Tells by which hash the packet's queue is chosen: the stack would compute one of ciphertext, which
    /// lies where it looks for headers later.
    #[inline(always)]
    pub fn set_hash(&self, hash: u32) {
        // SAFETY: the helper checks the packet.
        unsafe { helpers::bpf_set_hash(self.0, hash) };
    }

    /// Adds `front` bytes before the packet, for the headers of a frame. The stack is told of the new
    /// network header where it lets itself be told: queues that mark congestion would else do so in the
    /// ciphertext.
    #[inline(always)]
    pub fn grow(&self, front: usize, is_ipv4: bool) -> bool {
        const AFTER_MAC: u32 = 1;
        const FIXED_GSO: u64 = 1;
        const ENCAP_IPV4: u64 = 1 << 1;
        const ENCAP_IPV6: u64 = 1 << 2;
        const ENCAP_UDP: u64 = 1 << 4;
        let family = if is_ipv4 { ENCAP_IPV4 } else { ENCAP_IPV6 };
        let flags = FIXED_GSO | ENCAP_UDP | family;
        let behind_mac = (front - ETHERNET) as i32;
        // SAFETY: the kernel checks the room.
        let told = unsafe { helpers::bpf_skb_adjust_room(self.0, behind_mac, AFTER_MAC, flags) };
        let rest = if told == 0 { ETHERNET } else { front };
        // SAFETY: as above.
        unsafe { helpers::bpf_skb_change_head(self.0, rest as u32, 0) == 0 }
    }

    /// Makes it `len` bytes long, at its end.
    #[inline(always)]
    pub fn set_len(&self, len: usize) -> bool {
        // SAFETY: the kernel checks the room.
        unsafe { helpers::bpf_skb_change_tail(self.0, len as u32, 0) == 0 }
    }

    /// Sends it by a device, or as received by it.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32, received: bool) -> i32 {
        // SAFETY: a call with numbers.
        unsafe { helpers::bpf_redirect(ifindex, u64::from(received)) as i32 }
    }

    /// Asks the routing table.
    #[inline(always)]
    pub fn fib_lookup(&self, fib: &mut bpf_fib_lookup, flags: u32) -> bool {
        fib_lookup(self.0.cast(), fib, flags)
    }
}
