//! Unix SEQPACKET sockets with descriptors beside the bytes.
//!
//! Message boundaries are kept by the kernel, a message arrives whole or not at all, and the peer's
//! death shows as an empty read.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
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
    sendmsg::<()>(
        socket.as_raw_fd(),
        parts,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
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

/// Words of a control buffer for [`MAX_FDS`] descriptors and the header before them.
const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + MAX_FDS * size_of::<RawFd>()) / 8 + 1;

/// Receives one message into `buffer`.
///
/// # Errors
/// As recvmsg(2); `InvalidData` when the message was longer than the buffer or not all of its
/// descriptors could be taken (those that could are closed).
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    recv_with(socket, buffer, &mut [0; CONTROL_WORDS])
}

fn recv_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u64],
) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data; zero is a value of each field.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control) as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points to both buffers, which are writable for the lengths given.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    // Those of a truncated message too: else they would stay open for ever, and a hostile peer could
    // use up all that this process may have. (So nix, which does not give them out, is no help.)
    let fds = take_descriptors(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message longer than its buffer",
        ));
    }
    Ok(Received { len, fds })
}

/// The descriptors in the control buffer of a message that recvmsg(2) has filled.
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer that the message points to.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or a header in the aligned control buffer.
    while let Some(part) = unsafe { header.as_ref() } {
        if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the header is inside of the control buffer, and so is its data.
            let data = unsafe { libc::CMSG_DATA(header) };
            let bytes = part.cmsg_len.saturating_sub(data.addr() - header.addr());
            for index in 0..bytes / size_of::<RawFd>() {
                // SAFETY: one of the descriptors that the header's length counts.
                let place = unsafe { data.cast::<RawFd>().add(index) };
                // SAFETY: as above.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: both are of this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
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
        send(
            a.as_fd(),
            &[IoSlice::new(b"one"), IoSlice::new(b"two")],
            &[writer.as_raw_fd()],
        )
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
    fn descriptors_that_have_no_room_do_not_stay_open() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let fd = writer.as_raw_fd();
        send(a.as_fd(), &[IoSlice::new(b"x")], &[fd; 8]).unwrap();
        drop(writer);
        nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let open = reader.read(&mut [0; 1]).unwrap_err();
        assert_eq!(open.kind(), io::ErrorKind::WouldBlock);
        // A header and four descriptors.
        let error = recv_with(b.as_fd(), &mut [0; 10], &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            reader.read(&mut [0; 1]).unwrap(),
            0,
            "all copies are closed"
        );
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_takes_arrive() {
        let (a, b) = pair().unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        send(
            a.as_fd(),
            &[IoSlice::new(b"x")],
            &[writer.as_raw_fd(); MAX_FDS],
        )
        .unwrap();
        assert_eq!(recv(b.as_fd(), &mut [0; 10]).unwrap().fds.len(), MAX_FDS);
    }

    #[test]
    fn the_peer_closing_reads_as_empty() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut [0; 10]).unwrap().len, 0);
    }
}
