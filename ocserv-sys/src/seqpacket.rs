//! Unix SEQPACKET sockets with descriptors beside the bytes.
//!
//! Message boundaries are kept by the kernel, a message arrives whole or not at all, and the peer's
//! death shows as an empty read.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

/// Most descriptors in one message: the kernel's own limit (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Two connected, close-on-exec sockets; both blocking.
///
/// # Errors
/// As socketpair(2): too many descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Asks for room for `bytes` of unsent and unread messages in this socket.
///
/// # Errors
/// As setsockopt(2).
pub fn set_buffers(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    // The privileged form passes the system's limit; without the right the plain one must do.
    if setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &bytes)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}

/// Sends one message whole.
///
/// # Errors
/// As sendmsg(2); `WouldBlock` when the socket is non-blocking and full, `EMSGSIZE` when the message
/// exceeds the socket's buffer.
pub fn send(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// One received message.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the buffer; 0 means that the peer closed.
    pub len: usize,
    /// The descriptors that came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Receives one message into `buffer`.
///
/// # Errors
/// As recvmsg(2); `InvalidData` when the message was longer than the buffer or brought more than
/// [`MAX_FDS`] descriptors (all of which are closed).
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            for fd in received {
                // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    if truncated {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message longer than its buffer"));
    }
    Ok(Received { len: message.bytes, fds })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_keeps_its_boundary_and_its_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), &[IoSlice::new(b"one"), IoSlice::new(b"two")], &[writer.as_raw_fd()])
            .unwrap();
        send(a.as_fd(), &[IoSlice::new(b"three")], &[]).unwrap();
        drop(writer);

        let mut buffer = [0; 64];
        let mut first = recv(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..first.len], b"onetwo");
        let passed = first.fds.pop().unwrap();
        std::fs::File::from(passed).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        let second = recv(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..second.len], b"three");
        assert!(second.fds.is_empty());
    }

    #[test]
    fn a_message_too_long_for_the_buffer_is_an_error() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[IoSlice::new(&[7; 100])], &[]).unwrap();
        let error = recv(b.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_peer_closing_reads_as_empty() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut [0; 10]).unwrap().len, 0);
    }
}
