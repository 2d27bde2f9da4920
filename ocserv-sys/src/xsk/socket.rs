//! A socket as the process without rights has it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::RING;
use super::memory::{Frame, Frames};
use super::ring::Ring;

/// What the kernel lost, since the socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Packets that found no frame, or no room in the ring.
    pub received: u64,
    /// Frames that the kernel would not send.
    pub sent: u64,
}

/// A socket of a device's queue.
pub struct Socket {
    rx: Ring<libc::xdp_desc>,
    tx: Ring<libc::xdp_desc>,
    fill: Ring<u64>,
    completion: Ring<u64>,
    /// Names it among those that frames may be with.
    number: u32,
    fd: OwnedFd,
}

impl Socket {
    /// Maps the rings of a socket that [`super::open`] made.
    ///
    /// # Errors
    /// `getsockopt(2)`, `mmap(2)`; `InvalidData` for rings of another form.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let offsets: libc::xdp_mmap_offsets = option(&fd, libc::XDP_MMAP_OFFSETS)?;
        let socket = fd.as_fd();
        Ok(Self {
            rx: Ring::map(socket, &offsets.rx, libc::XDP_PGOFF_RX_RING)?,
            tx: Ring::map(socket, &offsets.tx, libc::XDP_PGOFF_TX_RING)?,
            fill: Ring::map(socket, &offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING as i64)?,
            completion: Ring::map(
                socket,
                &offsets.cr,
                libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64,
            )?,
            // Enough for one a nanosecond; two numbers of memory.rs are never reached.
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> 1),
            fd,
        })
    }

    /// Gives the kernel frames to receive into, until it has `wanted` of them or none is free.
    pub fn refill(&mut self, frames: &mut Frames, wanted: u32) {
        let mut missing = wanted.min(RING).saturating_sub(self.fill.unread());
        let mut gave = false;
        while missing > 0
            && let Some(address) = frames.give_free(self.number)
        {
            self.fill.write(address);
            missing -= 1;
            gave = true;
        }
        if gave {
            self.fill.publish();
        }
        if self.fill.wants_call() {
            self.call_for_receiving();
        }
    }

    /// Takes what came, `most` at a time. How many.
    pub fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Frame>, most: usize) -> usize {
        let count = (self.rx.filled() as usize).min(most);
        for _ in 0..count {
            let packet = self.rx.read();
            into.extend(frames.received(packet.addr, packet.len, self.number));
        }
        if count > 0 {
            self.rx.release();
        }
        count
    }

    /// Puts a packet where [`Self::flush`] sends it from.
    ///
    /// # Errors
    /// The frame, if there is no room.
    pub fn send(&mut self, frames: &mut Frames, frame: Frame) -> Result<(), Frame> {
        if self.tx.room() == 0 {
            return Err(frame);
        }
        let Some((addr, len)) = frames.give(&frame, self.number) else {
            return Err(frame);
        };
        self.tx.write(libc::xdp_desc {
            addr,
            len,
            options: 0,
        });
        Ok(())
    }

    /// Sends what was put there. Frames that were sent are free again. `false`: some wait for another call.
    ///
    /// # Errors
    /// The device is off or gone.
    pub fn flush(&mut self, frames: &mut Frames) -> io::Result<bool> {
        self.tx.publish();
        loop {
            let before = self.tx.unread();
            if before == 0 {
                self.reclaim(frames);
                return Ok(true);
            }
            if self.tx.wants_call() {
                self.call_for_sending()?;
            }
            self.reclaim(frames);
            let after = self.tx.unread();
            if after == before {
                return Ok(after == 0);
            }
        }
    }

    /// Takes frames back that were sent.
    pub fn reclaim(&mut self, frames: &mut Frames) {
        let count = self.completion.filled();
        for _ in 0..count {
            let address = self.completion.read();
            frames.sent(address, self.number);
        }
        if count > 0 {
            self.completion.release();
        }
    }

    /// Whether something was put to be sent and has not been.
    pub fn has_unsent(&self) -> bool {
        self.tx.unread() > 0
    }

    /// What the kernel lost.
    ///
    /// # Errors
    /// `getsockopt(2)`.
    pub fn lost(&self) -> io::Result<Lost> {
        let counts: libc::xdp_statistics = option(&self.fd, libc::XDP_STATISTICS)?;
        Ok(Lost {
            received: counts.rx_dropped + counts.rx_ring_full + counts.rx_fill_ring_empty_descs,
            sent: counts.tx_invalid_descs,
        })
    }

    /// Ends it; its frames are free again.
    pub fn end(self, frames: &mut Frames) {
        let number = self.number;
        drop(self);
        frames.ended(number);
    }

    fn call_for_receiving(&self) {
        let (fd, nothing) = (self.fd.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: no buffer, so nothing is written. It only wakes the driver; what goes wrong shows again.
        unsafe {
            libc::recvfrom(
                fd,
                nothing,
                0,
                libc::MSG_DONTWAIT,
                nothing.cast(),
                nothing.cast(),
            )
        };
    }

    fn call_for_sending(&self) -> io::Result<()> {
        let (fd, nothing) = (self.fd.as_raw_fd(), std::ptr::null());
        // SAFETY: no buffer and no address, so nothing is read.
        let result = unsafe { libc::sendto(fd, nothing, 0, libc::MSG_DONTWAIT, nothing.cast(), 0) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
            _ => Err(error),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn option<T>(fd: &OwnedFd, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as u32;
    let (pointer, fd) = (value.as_mut_ptr().cast(), fd.as_raw_fd());
    // SAFETY: the buffer has this length and lives through the call.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_XDP, name, pointer, &raw mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the options that are asked for are numbers only, and what the kernel did not write is zero.
    Ok(unsafe { value.assume_init() })
}
