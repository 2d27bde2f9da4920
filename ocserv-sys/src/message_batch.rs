//! Messages of a Unix SEQPACKET socket in batches.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Buffers for received messages.
pub struct MessageBatch {
    storage: Vec<u8>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    lens: Vec<usize>,
    buffer_len: usize,
}

/// What a receive call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The peer is there.
    Open,
    /// It closed its end; the batch holds what it sent before.
    Closed,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// Messages that the kernel took: the first ones of the batch.
    pub sent: usize,
    /// Messages lost: no room, or nobody there.
    pub lost: usize,
}

impl MessageBatch {
    /// Room for `capacity` messages of at most `buffer_len` bytes; longer ones are refused.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            storage: vec![0; capacity * buffer_len],
            parts: vec![part; capacity],
            headers: vec![empty_header(); capacity],
            lens: Vec::with_capacity(capacity),
            buffer_len,
        }
    }

    /// Number of messages in it.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Message number `index`; one that did not fit its buffer is empty.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn message(&self, index: usize) -> &[u8] {
        let start = index * self.buffer_len;
        &self.storage[start..start + self.lens[index]]
    }

    /// Receives waiting messages with one system call. Never waits.
    ///
    /// # Errors
    /// `recvmmsg(2)`, except for "nothing there"; a reset by the peer reads as closed.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<LinkState> {
        self.prepare();
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: `prepare` made every header point at a buffer of this struct with its true length;
        // they stay in place through the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(LinkState::Open),
                Some(libc::ECONNRESET) => Ok(LinkState::Closed),
                _ => Err(error),
            };
        };
        for header in self.headers.iter().take(received) {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            if whole && header.msg_len == 0 {
                return Ok(LinkState::Closed);
            }
            self.lens
                .push(if whole { header.msg_len as usize } else { 0 });
        }
        Ok(LinkState::Open)
    }

    fn prepare(&mut self) {
        self.lens.clear();
        let buffers = self.storage.chunks_exact_mut(self.buffer_len);
        for ((header, part), buffer) in self.headers.iter_mut().zip(&mut self.parts).zip(buffers) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
            *header = empty_header();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
    }
}

/// Sends messages of two parts each, with one system call for up to 64 of them. Never waits.
pub fn send_messages(socket: BorrowedFd<'_>, messages: &[[IoSlice<'_>; 2]]) -> LinkReport {
    const CHUNK: usize = 64;
    let mut report = LinkReport::default();
    for chunk in messages.chunks(CHUNK) {
        let mut headers = [empty_header(); CHUNK];
        for (header, message) in headers.iter_mut().zip(chunk) {
            // An IoSlice has the layout of iovec; the kernel only reads it.
            header.msg_hdr.msg_iov = message.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_iovlen = message.len() as _;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let count = chunk.len() as libc::c_uint;
        // SAFETY: the first `count` headers point at slices that live through the call.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
        report.sent += usize::try_from(sent).unwrap_or(0);
        if usize::try_from(sent) != Ok(chunk.len()) {
            break;
        }
    }
    report.lost = messages.len() - report.sent;
    report
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is integers and pointers; zero is a value of each.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::seqpacket;

    #[test]
    fn a_batch_arrives_whole_and_in_order() {
        let (a, b) = seqpacket::pair().unwrap();
        let bodies: Vec<[u8; 2]> = (0..100u8).map(|n| [n, n]).collect();
        let messages: Vec<_> = bodies
            .iter()
            .map(|body| [IoSlice::new(b"head"), IoSlice::new(body)])
            .collect();
        let report = send_messages(a.as_fd(), &messages);
        assert_eq!(report, LinkReport { sent: 100, lost: 0 });
        let mut batch = MessageBatch::new(80, 6);
        assert_eq!(batch.receive(b.as_fd()).unwrap(), LinkState::Open);
        assert_eq!((batch.len(), batch.message(79)), (80, &b"head\x4f\x4f"[..]));
        drop(a);
        assert_eq!(batch.receive(b.as_fd()).unwrap(), LinkState::Closed);
        assert_eq!((batch.len(), batch.message(0)), (20, &b"head\x50\x50"[..]));
    }

    #[test]
    fn nothing_waits() {
        let (a, b) = seqpacket::pair().unwrap();
        let mut batch = MessageBatch::new(4, 10);
        assert_eq!(batch.receive(b.as_fd()).unwrap(), LinkState::Open);
        assert!(batch.is_empty());
        let body = [0; 60_000];
        let messages = [[IoSlice::new(b"x"), IoSlice::new(&body)]; 64];
        let report = send_messages(a.as_fd(), &messages);
        assert!(report.sent >= 1 && report.lost >= 1, "{report:?}");
        assert_eq!(report.sent + report.lost, 64);
        assert_eq!(batch.receive(b.as_fd()).unwrap(), LinkState::Open);
        assert_eq!(batch.message(0), b"", "longer than its buffer");
        drop(b);
        assert_eq!(send_messages(a.as_fd(), &messages).sent, 0);
    }
}
