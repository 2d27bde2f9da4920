//! A ring in memory that process and kernel share: one writes, the other reads.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::RING;
use super::memory::Mapping;

/// A ring of which this process has one end.
pub(super) struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Where this end is.
    own: u32,
    _memory: Mapping,
}

// SAFETY: its pointers lead into its own mapping, which belongs to the process.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps a ring of a socket; `offsets` are the kernel's, `page` names the ring.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        page: i64,
    ) -> io::Result<Self> {
        let (offset, count) = (offsets.desc as usize, RING as usize);
        let memory = Mapping::new(socket, offset + count * size_of::<T>(), page)?;
        let number = |offset: u64| memory.at::<AtomicU32>(offset as usize, 1);
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "ring of another form");
        Ok(Self {
            producer: number(offsets.producer).ok_or_else(strange)?,
            consumer: number(offsets.consumer).ok_or_else(strange)?,
            flags: number(offsets.flags).ok_or_else(strange)?,
            entries: memory.at(offset, count).ok_or_else(strange)?,
            own: 0,
            _memory: memory,
        })
    }

    /// Entries that can be written.
    pub(super) fn room(&self) -> u32 {
        RING.saturating_sub(self.unread())
    }

    /// Entries that the kernel has not read yet, of a ring that is written here.
    pub(super) fn unread(&self) -> u32 {
        self.own.wrapping_sub(load(self.consumer))
    }

    /// Writes an entry; there must be room. The kernel sees it with [`Self::publish`].
    pub(super) fn write(&mut self, entry: T) {
        let place = self.place(self.own);
        // SAFETY: within the ring (`place`), and not the kernel's: it has been told of fewer.
        unsafe { place.write(entry) };
        self.own = self.own.wrapping_add(1);
    }

    /// Shows the kernel what was written.
    pub(super) fn publish(&self) {
        store(self.producer, self.own);
    }

    /// Entries that can be read.
    pub(super) fn filled(&self) -> u32 {
        load(self.producer).wrapping_sub(self.own).min(RING)
    }

    /// Reads an entry; there must be one. The kernel may write over it after [`Self::release`].
    pub(super) fn read(&mut self) -> T {
        let place = self.place(self.own);
        // SAFETY: within the ring (`place`), written by the kernel before it counted it; any bytes are a
        // value of what rings hold.
        let entry = unsafe { place.read() };
        self.own = self.own.wrapping_add(1);
        entry
    }

    /// Gives the kernel the room of what was read.
    pub(super) fn release(&self) {
        store(self.consumer, self.own);
    }

    /// Whether the kernel waits for a call.
    pub(super) fn wants_call(&self) -> bool {
        load(self.flags) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn place(&self, index: u32) -> NonNull<T> {
        let index = (index & (RING - 1)) as usize;
        // SAFETY: the array has RING entries.
        unsafe { self.entries.add(index) }
    }
}

fn load(place: NonNull<AtomicU32>) -> u32 {
    // SAFETY: a place in the ring's mapping, which is as old as its `Ring`.
    let place = unsafe { place.as_ref() };
    place.load(Ordering::Acquire)
}

fn store(place: NonNull<AtomicU32>, value: u32) {
    // SAFETY: as above.
    let place = unsafe { place.as_ref() };
    place.store(value, Ordering::Release);
}
