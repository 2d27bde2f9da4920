//! Frames, and who has them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::SealFlag;
use nix::unistd::{Whence, lseek};

use crate::memfd;

/// With the size fixed for ever, no access through a mapping can fault.
pub(super) const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// Shared memory of a descriptor. Unmapped when dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub(super) fn new(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (anywhere, fd) = (std::ptr::null_mut(), fd.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { libc::mmap(anywhere, len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(super) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// A value at `offset`. `None`: it does not lie within, or not on its alignment.
    pub(super) fn at<T>(&self, offset: usize, count: usize) -> Option<NonNull<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let end = offset.checked_add(bytes)?;
        let is_sound = end <= self.len && (self.address() + offset).is_multiple_of(align_of::<T>());
        if !is_sound {
            return None;
        }
        // SAFETY: within the mapping, as just checked.
        Some(unsafe { self.start.add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length; what points into it is dropped with its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

/// The right to use a frame, and where its packet lies.
#[derive(Debug)]
pub struct Frame {
    pub(super) number: u32,
    start: u16,
    len: u16,
}

impl Frame {
    /// Has the packet lie elsewhere in the frame: `len` bytes from byte `start` on.
    pub fn set_packet(&mut self, start: usize, len: usize) {
        // More than a frame has is found when it is used.
        self.start = u16::try_from(start).unwrap_or(u16::MAX);
        self.len = u16::try_from(len).unwrap_or(u16::MAX);
    }

    /// Where the packet begins, bytes from the frame's start.
    pub fn start(&self) -> usize {
        self.start.into()
    }

    /// Bytes of the packet.
    pub fn packet_len(&self) -> usize {
        self.len.into()
    }
}

/// Who has a frame that is in no one's hands.
const FREE: u32 = u32::MAX;
/// A [`Frame`] of it is out.
const OUT: u32 = u32::MAX - 1;

/// The frames of a thread.
pub struct Frames {
    memory: Mapping,
    size: usize,
    free: Vec<u32>,
    /// By frame: the number of the socket whose rings have it, [`FREE`] or [`OUT`].
    holders: Vec<u32>,
}

impl Frames {
    /// Maps frames of `size` bytes.
    ///
    /// # Errors
    /// `InvalidData` if the file is not sealed, or has not whole frames; `mmap(2)`.
    pub fn map(file: &OwnedFd, size: u32) -> io::Result<Self> {
        memfd::check_seals(file, SEALS)?;
        // Not fstat(2): a confined process may not.
        let len = lseek(file, 0, Whence::SeekEnd)?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
        let size = size as usize;
        let is_sound =
            size.is_power_of_two() && size <= 4096 && len > 0 && len.is_multiple_of(size);
        if !is_sound {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = u32::try_from(len / size).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self {
            memory: Mapping::new(file.as_fd(), len, 0)?,
            size,
            free: (0..count).rev().collect(),
            holders: vec![FREE; count as usize],
        })
    }

    /// Frames there are.
    pub fn count(&self) -> usize {
        self.holders.len()
    }

    /// Frames that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free frame.
    pub fn take(&mut self) -> Option<Frame> {
        let number = self.free.pop()?;
        self.hold(number, OUT);
        Some(Frame {
            number,
            start: 0,
            len: 0,
        })
    }

    /// Gives a frame back.
    pub fn give_back(&mut self, frame: Frame) {
        self.put_back(frame.number);
    }

    /// The packet of a frame. Nothing if it does not lie within the frame.
    pub fn packet(&mut self, frame: &Frame) -> &mut [u8] {
        let (start, len) = (frame.start(), frame.packet_len());
        let whole = self.whole(frame);
        whole.get_mut(start..start + len).unwrap_or(&mut [])
    }

    /// The same, to read.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let Some(start) = self
            .memory
            .at::<u8>(frame.number as usize * self.size, self.size)
        else {
            return &[];
        };
        // SAFETY: as in `whole`; what would change the bytes borrows `self` for itself.
        let whole = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.size) };
        let packet = whole.get(frame.start()..frame.start() + frame.packet_len());
        packet.unwrap_or(&[])
    }

    /// All bytes of a frame.
    pub fn whole(&mut self, frame: &Frame) -> &mut [u8] {
        let Some(start) = self
            .memory
            .at::<u8>(frame.number as usize * self.size, self.size)
        else {
            return &mut [];
        };
        // SAFETY: within the mapping, which lives as long as `self`; the frame's right is out once, so
        // neither the kernel nor another frame has these bytes, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.size) }
    }

    /// The packet of one frame, and all bytes of another.
    pub fn packet_and_whole(&mut self, one: &Frame, other: &Frame) -> (&[u8], &mut [u8]) {
        debug_assert_ne!(one.number, other.number);
        let Some(start) = self
            .memory
            .at::<u8>(one.number as usize * self.size, self.size)
        else {
            return (&[], &mut []);
        };
        // SAFETY: as in `whole`; the right to a frame is out once, so the other has other bytes.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.size) };
        let packet = bytes.get(one.start()..one.start() + one.packet_len());
        (packet.unwrap_or(&[]), self.whole(other))
    }

    /// The kernel's name of a frame with its packet; the frame is its socket's now.
    pub(super) fn give(&mut self, frame: &Frame, holder: u32) -> Option<(u64, u32)> {
        if frame.start() + frame.packet_len() > self.size {
            return None;
        }
        self.hold(frame.number, holder);
        let address = u64::from(frame.number) * self.size as u64 + u64::from(frame.start);
        Some((address, frame.len.into()))
    }

    /// A free frame for a socket to receive into; its name.
    pub(super) fn give_free(&mut self, holder: u32) -> Option<u64> {
        let number = self.free.pop()?;
        self.hold(number, holder);
        Some(u64::from(number) * self.size as u64)
    }

    /// What a socket received. `None`: it had no such frame.
    pub(super) fn received(&mut self, address: u64, len: u32, holder: u32) -> Option<Frame> {
        let number = self.held(address, holder)?;
        let start = address as usize % self.size;
        if start + len as usize > self.size {
            self.put_back(number);
            return None;
        }
        self.hold(number, OUT);
        let mut frame = Frame {
            number,
            start: 0,
            len: 0,
        };
        frame.set_packet(start, len as usize);
        Some(frame)
    }

    /// What a socket has sent.
    pub(super) fn sent(&mut self, address: u64, holder: u32) {
        if let Some(number) = self.held(address, holder) {
            self.put_back(number);
        }
    }

    /// A socket has ended: its frames are free.
    pub(super) fn ended(&mut self, holder: u32) {
        for number in 0..self.holders.len() {
            if self.holders.get(number) == Some(&holder) {
                self.put_back(number as u32);
            }
        }
    }

    fn held(&self, address: u64, holder: u32) -> Option<u32> {
        let number = u32::try_from(address / self.size as u64).ok()?;
        (self.holders.get(number as usize) == Some(&holder)).then_some(number)
    }

    fn put_back(&mut self, number: u32) {
        self.hold(number, FREE);
        self.free.push(number);
    }

    fn hold(&mut self, number: u32, holder: u32) {
        if let Some(place) = self.holders.get_mut(number as usize) {
            *place = holder;
        }
    }
}
