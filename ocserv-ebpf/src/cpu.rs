//! A CPU's working memory: a program's stack has 512 bytes.

use aya_ebpf::bindings::bpf_fib_lookup;
use ocserv_common::aead::Sheet;
use ocserv_common::datagram::{Head, Record};
use ocserv_common::encapsulation::{FRONT, Front};
use ocserv_common::inner::InnerHead;
use ocserv_common::kernel::{Address, FlowKey};

/// Where the inner packet begins in the sheet's body: behind the additional data and the type byte.
const INNER: usize = AAD + 1;
const AAD: usize = 16;
/// A power of two that is above the longest text and leaves room for a tag in the body.
const ROOM_FOR_TAG: usize = 2048;
/// Bytes of an Ethernet header, which stands before the inner packet.
const ETHERNET: usize = 14;

/// The memory.
#[repr(C)]
pub struct Cpu {
    /// Flow of a record.
    pub flow: FlowKey,
    /// An inner address.
    pub address: Address,
    /// A question to the routing table.
    pub fib: bpf_fib_lookup,
    /// The record that the frame carries.
    pub record: Record,
    /// First bytes of the frame.
    pub head: Head,
    /// The record.
    pub sheet: Sheet,
    /// So that a masked offset into the sheet's body lies within this memory.
    behind: [u64; 8],
}

const _: () = {
    // It is written in words.
    assert!(core::mem::offset_of!(Cpu, head) % 8 == 0);
    // `Sheet::room` and the additional data are the front of a frame.
    assert!(core::mem::offset_of!(Sheet, body) - core::mem::offset_of!(Sheet, room) + AAD == FRONT);
};

impl Cpu {
    /// What a pointer of a global function stands for: the verifier assumes that it may be null.
    pub fn from_argument<'a>(cpu: *mut Self) -> Option<&'a mut Self> {
        // SAFETY: null, or the caller's memory: the verifier checks each call.
        unsafe { cpu.as_mut() }
    }

    /// The first bytes of the inner packet on the sheet.
    pub fn inner(&mut self) -> &mut InnerHead {
        let inner = self.at(INNER).cast::<InnerHead>();
        // SAFETY: within the body, and bytes need no alignment.
        unsafe { &mut *inner }
    }

    /// What stands before the record's ciphertext.
    pub fn front(&mut self) -> &mut Front {
        let front = self.room().cast::<Front>();
        // SAFETY: room and additional data lie one behind the other (asserted above).
        unsafe { &mut *front }
    }

    /// What stands before the ciphertext, and the flow that it is made of.
    pub fn front_and_flow(&mut self) -> (&mut Front, &FlowKey) {
        let front = self.room().cast::<Front>();
        // SAFETY: as above; the flow lies elsewhere.
        (unsafe { &mut *front }, &self.flow)
    }

    /// Where the inner packet lies.
    pub fn inner_ptr(&mut self) -> *mut u8 {
        self.at(INNER)
    }

    /// Where the text lies.
    pub fn text_ptr(&mut self) -> *mut u8 {
        self.at(AAD)
    }

    /// Where the Ethernet header before the inner packet lies.
    pub fn ethernet_ptr(&mut self) -> *mut u8 {
        self.at(INNER - ETHERNET)
    }

    /// The Ethernet header before the inner packet.
    pub fn ethernet(&mut self) -> &mut [u8; ETHERNET] {
        let header = self.ethernet_ptr().cast::<[u8; ETHERNET]>();
        // SAFETY: within the body, and bytes need no alignment.
        unsafe { &mut *header }
    }

    /// Where the headers of a frame begin that take `len` bytes before the ciphertext.
    pub fn front_ptr(&mut self, len: usize) -> *mut u8 {
        // SAFETY: `len` is at most FRONT.
        unsafe { self.room().add(FRONT - len) }
    }

    fn room(&mut self) -> *mut u8 {
        const ROOM: usize = core::mem::offset_of!(Cpu, sheet) + core::mem::offset_of!(Sheet, room);
        let start = (&raw mut *self).cast::<u8>();
        // SAFETY: a constant within this memory.
        unsafe { start.add(ROOM) }
    }

    /// Puts the sheet's tag behind a text of `text_len` bytes.
    pub fn put_tag(&mut self, text_len: usize) {
        let tag = self.sheet.tag;
        let at = text_len & (ROOM_FOR_TAG - 1);
        let to = self.at(AAD);
        // SAFETY: masked, the offset lies within the body or the memory behind it.
        let to = unsafe { to.add(at) }.cast::<[u64; 2]>();
        // SAFETY: as above; the write needs no alignment.
        unsafe { to.write_unaligned(tag) };
    }

    /// The tag behind a ciphertext of `text_len` bytes.
    pub fn tag_behind(&mut self, text_len: usize) -> [u64; 2] {
        let at = text_len & (ROOM_FOR_TAG - 1);
        let from = self.at(AAD);
        // SAFETY: masked, the offset lies within the body or the memory behind it.
        let from = unsafe { from.add(at) }.cast::<[u64; 2]>();
        // SAFETY: as above; the read needs no alignment.
        unsafe { from.read_unaligned() }
    }

    /// Puts zeroes behind a ciphertext and tag of `length` bytes.
    pub fn clear_behind(&mut self, length: usize) {
        let at = length & (ROOM_FOR_TAG - 1);
        let to = self.at(AAD);
        // SAFETY: as for the tag.
        let to = unsafe { to.add(at) }.cast::<u32>();
        // SAFETY: as for the tag.
        unsafe { to.write_unaligned(0) };
    }

    fn at(&mut self, offset: usize) -> *mut u8 {
        const BODY: usize = core::mem::offset_of!(Cpu, sheet) + core::mem::offset_of!(Sheet, body);
        let start = (&raw mut *self).cast::<u8>();
        // SAFETY: offsets are constants within the body.
        unsafe { start.add(BODY + offset) }
    }
}
