//! One queue of the device.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::writev;
use nix::unistd::{read, write};
use ocserv_common::offload::MAX_SUPER_PACKET;
use ocserv_common::offload::segment::Segmenter;
use ocserv_common::offload::vnet::{VNET_HEADER, VnetHeader};

use super::PacketBatch;
use super::request;
use super::sender::{Sender, count};

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets that the kernel took.
    pub sent: usize,
    /// Packets that it had no room for.
    pub full: usize,
    /// Packets that it refused: not IP, or the device is down.
    pub refused: usize,
    /// Why the last packet that it did not take was not taken.
    pub error: Option<i32>,
}

/// One queue of the device.
pub struct TunQueue {
    fd: OwnedFd,
    /// Numbers of the packets that began a write.
    leaders: Vec<u32>,
    /// For packets with a header before them.
    offload: Option<Offload>,
}

struct Offload {
    sender: Sender,
    /// A packet as it was read.
    buffer: Vec<u8>,
    /// What of it is not in a batch yet.
    rest: Option<(usize, Segmenter)>,
}

impl TunQueue {
    /// Takes a queue from its descriptor, which must be non-blocking. Asks the driver what it carries,
    /// so this belongs before the confinement.
    pub fn new(fd: OwnedFd) -> Self {
        let offload = request::has_vnet_header(&fd).then(|| Offload {
            sender: Sender::new(),
            buffer: vec![0; VNET_HEADER + MAX_SUPER_PACKET],
            rest: None,
        });
        Self {
            fd,
            leaders: Vec::new(),
            offload,
        }
    }

    /// Reads waiting packets, at most as many as `batch` holds; 0 when none wait. When the batch was
    /// too small for a super-packet, the next one gets its rest and nothing else.
    ///
    /// # Errors
    /// `read(2)`, except for "nothing there"; `EIO` while the device is down is "nothing" too.
    pub fn recv_batch(&mut self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        match &mut self.offload {
            None => recv_plain(&self.fd, batch)?,
            Some(offload) if offload.rest.is_some() => offload.lay_rest(batch, false),
            Some(offload) => offload.recv(&self.fd, batch)?,
        }
        Ok(batch.len())
    }

    /// Whether there is something left of a super-packet. The descriptor does not become readable
    /// for it.
    pub fn has_rest(&self) -> bool {
        let offload = self.offload.as_ref();
        offload.is_some_and(|offload| offload.rest.is_some())
    }

    /// Writes packets, in the order that each flow has them; what the kernel does not take is counted
    /// and lost, as on any wire.
    pub fn send_batch<'a>(&mut self, packets: impl IntoIterator<Item = &'a [u8]>) -> Sent {
        let Self { fd, leaders, .. } = self;
        leaders.clear();
        if let Some(offload) = &mut self.offload {
            let mut write = |parts: &[IoSlice<'_>]| writev(&*fd, parts).map(drop);
            return offload.sender.send(&mut write, packets, leaders);
        }
        let mut counts = Sent::default();
        for (number, packet) in (0..).zip(packets) {
            leaders.push(number);
            count(&mut counts, write(&*fd, packet).map(drop), 1);
        }
        counts
    }

    /// Numbers of the packets of the last [`Self::send_batch`] that began a write, ascending: those after
    /// them went by the same.
    pub fn leaders(&self) -> &[u32] {
        &self.leaders
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `None`: nothing there.
fn read_one(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match read(fd, buffer) {
            Ok(0) | Err(Errno::EAGAIN | Errno::EIO) => return Ok(None),
            Ok(len) => return Ok(Some(len)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn recv_plain(fd: &OwnedFd, batch: &mut PacketBatch) -> io::Result<()> {
    while let Some(buffer) = batch.free() {
        let Some(len) = read_one(fd, buffer)? else {
            return Ok(());
        };
        batch.push(len, true);
    }
    Ok(())
}

impl Offload {
    fn recv(&mut self, fd: &OwnedFd, batch: &mut PacketBatch) -> io::Result<()> {
        while batch.free().is_some() {
            let Some(len) = read_one(fd, &mut self.buffer)? else {
                return Ok(());
            };
            let read = self.buffer.get_mut(..len).unwrap_or_default();
            let Some((header, packet)) = read.split_first_chunk_mut::<VNET_HEADER>() else {
                continue;
            };
            let header = VnetHeader::read(header);
            // The kernel writes the header, so what fails is a packet too long for the batch's buffers.
            // Nothing at all stands for it, to be counted as what no packet is.
            let Ok(segmenter) = Segmenter::new(&header, packet, batch.buffer_len()) else {
                batch.push(0, true);
                continue;
            };
            self.rest = Some((len, segmenter));
            self.lay_rest(batch, true);
        }
        Ok(())
    }

    /// Puts what is left into the batch, as far as there is room.
    fn lay_rest(&mut self, batch: &mut PacketBatch, mut first: bool) {
        let Some((len, segmenter)) = &mut self.rest else {
            return;
        };
        let packet = self.buffer.get(VNET_HEADER..*len).unwrap_or(&[]);
        while let Some(buffer) = batch.free() {
            let Some(len) = segmenter.next(packet, buffer) else {
                self.rest = None;
                return;
            };
            batch.push(len, first);
            first = false;
        }
        if segmenter.is_done() {
            self.rest = None;
        }
    }
}
