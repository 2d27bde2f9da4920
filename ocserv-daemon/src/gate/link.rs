//! The packet link to the dataplane.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ocserv_sys::message_batch::{LinkState, MessageBatch};
use ocserv_sys::seqpacket;
use tokio::io::unix::AsyncFd;

use super::dtls::Flow;
use crate::ipc::ids::Slot;
use crate::ipc::packet::{Frame, packet_header};

/// One end of the link.
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    /// Datagrams that found the link full; clients send them again.
    lost: Cell<u64>,
}

impl Link {
    /// Takes over the socket.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_truncate(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps its descriptor open, as `register` asks"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self {
            socket,
            lost: Cell::new(0),
        })
    }

    /// Sends an inner packet; false when the link is full.
    ///
    /// # Errors
    /// When the dataplane is gone.
    pub fn send_packet(&self, slot: Slot, packet: &[u8]) -> io::Result<bool> {
        self.send(&[IoSlice::new(&packet_header(slot)), IoSlice::new(packet)])
    }

    /// Sends a datagram of a handshake.
    pub fn send_datagram(&self, slot: Slot, flow: Flow, bytes: &[u8]) {
        let mut message = Vec::with_capacity(bytes.len() + 64);
        Frame::Datagram {
            slot,
            peer: flow.peer,
            local: flow.local,
            bytes,
        }
        .write(&mut message);
        if !matches!(self.send(&[IoSlice::new(&message)]), Ok(true)) {
            self.lost.set(self.lost.get() + 1);
        }
    }

    /// Waits until there is room.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn writable(&self) -> io::Result<()> {
        // What is known as writable may have been used up since: `send` goes around tokio.
        let mut ready = self.socket.writable().await?;
        if !has_room(self.socket.get_ref()) {
            ready.clear_ready();
            drop(ready);
            ready = self.socket.writable().await?;
        }
        ready.retain_ready();
        Ok(())
    }

    /// Reads up to one batch, waiting for its first message; false when the dataplane is gone.
    ///
    /// # Errors
    /// As recvmmsg(2).
    pub async fn receive(&self, batch: &mut MessageBatch) -> io::Result<bool> {
        loop {
            let mut ready = self.socket.readable().await?;
            let state = batch.receive(self.as_fd())?;
            if state == LinkState::Open && batch.is_empty() {
                ready.clear_ready();
                continue;
            }
            // After a short batch the queue is empty, but for what came meanwhile: ask again.
            ready.retain_ready();
            return Ok(state == LinkState::Open || !batch.is_empty());
        }
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<bool> {
        match seqpacket::send(self.as_fd(), parts, &[]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn has_room(socket: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut waiting, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
