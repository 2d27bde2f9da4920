//! Sending.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;

use super::message::{Control, write_control};

/// Where a datagram goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The client.
    pub peer: SocketAddr,
    /// Source address; `None`: as routing says.
    pub source: Option<IpAddr>,
    /// How it is to be treated on its way.
    pub marking: Option<Marking>,
}

/// What decides about a datagram's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// TOS or traffic class byte, seen by all routers.
    Tos(u8),
    /// `SO_PRIORITY`, 0 to 6, seen by this host's queues. Only where [`super::takes_priority`].
    Priority(u8),
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams lost because the socket or the device was full.
    pub full: usize,
    /// Datagrams refused for another reason (no route, firewall).
    pub refused: usize,
}

/// Datagrams to send. Each carries a tag of the caller, by which those too long for the path are
/// named afterwards.
pub struct TxBatch {
    storage: Vec<u8>,
    names: Vec<SockAddr>,
    controls: Vec<Control>,
    control_lens: Vec<usize>,
    lens: Vec<usize>,
    tags: Vec<u32>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    too_long: Vec<u32>,
    lost: Vec<u32>,
    capacity: usize,
    buffer_len: usize,
}

impl TxBatch {
    /// Room for `capacity` datagrams of at most `buffer_len` bytes.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: mmsghdr is integers and pointers; zero is a value of each.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            storage: vec![0; capacity * buffer_len],
            names: Vec::with_capacity(capacity),
            controls: vec![Control::EMPTY; capacity],
            control_lens: Vec::with_capacity(capacity),
            lens: Vec::with_capacity(capacity),
            tags: Vec::with_capacity(capacity),
            parts: vec![part; capacity],
            headers: vec![header; capacity],
            too_long: Vec::with_capacity(capacity),
            lost: Vec::with_capacity(capacity),
            capacity,
            buffer_len,
        }
    }

    /// Number of datagrams waiting.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// The next free buffer, to be written and then [committed](Self::commit). `None`: full.
    pub fn buffer(&mut self) -> Option<&mut [u8]> {
        let index = self.lens.len();
        if index == self.capacity {
            return None;
        }
        let start = index * self.buffer_len;
        Some(&mut self.storage[start..start + self.buffer_len])
    }

    /// Adds the first `len` bytes of the buffer just written.
    ///
    /// # Panics
    /// If there was no free buffer or `len` exceeds it.
    pub fn commit(&mut self, len: usize, to: &Destination, tag: u32) {
        assert!(len <= self.buffer_len && self.lens.len() < self.capacity);
        let index = self.lens.len();
        let ipv4 = to.peer.is_ipv4();
        let control_len = write_control(&mut self.controls[index], to.source, ipv4, to.marking);
        self.names.push(SockAddr::from(to.peer));
        self.control_lens.push(control_len);
        self.lens.push(len);
        self.tags.push(tag);
    }

    /// Tags of the datagrams of the last batch that were too long for the path (EMSGSIZE).
    pub fn too_long(&self) -> &[u32] {
        &self.too_long
    }

    /// Tags of the datagrams of the last batch that were lost for another reason.
    pub fn lost(&self) -> &[u32] {
        &self.lost
    }

    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> SendReport {
        self.too_long.clear();
        self.lost.clear();
        self.prepare();
        let mut report = SendReport::default();
        let mut next = 0;
        while next < self.lens.len() {
            match self.send_from(socket, next) {
                Ok(sent) => {
                    report.sent += sent;
                    next += sent.max(1);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EMSGSIZE) => {
                        self.too_long.push(self.tags[next]);
                        next += 1;
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => {
                        // There is no room for the rest either.
                        self.lost.extend_from_slice(&self.tags[next..]);
                        report.full += self.lens.len() - next;
                        break;
                    }
                    // Also errors of earlier datagrams, told once: this one is not tried again.
                    _ => {
                        self.lost.push(self.tags[next]);
                        report.refused += 1;
                        next += 1;
                    }
                },
            }
        }
        self.clear();
        report
    }

    fn send_from(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..self.lens.len()];
        let count = headers.len() as libc::c_uint;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `prepare` made these headers point at buffers, names and control messages of this
        // struct with their true lengths; nothing moved since.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn prepare(&mut self) {
        let count = self.lens.len();
        let buffers = self.storage.chunks_exact_mut(self.buffer_len);
        for ((part, buffer), len) in self.parts.iter_mut().zip(buffers).zip(&self.lens) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = *len;
        }
        for (index, header) in self.headers[..count].iter_mut().enumerate() {
            let name = &self.names[index];
            // The kernel only reads the name; the field's type is that of receiving.
            header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = name.len();
            header.msg_hdr.msg_iov = &raw mut self.parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = self.control_lens[index] as _;
        }
    }

    fn clear(&mut self) {
        self.names.clear();
        self.control_lens.clear();
        self.lens.clear();
        self.tags.clear();
    }
}
