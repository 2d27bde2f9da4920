//! Receiving.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{CONTROL_LEN, Control, Name, Told, read_control, read_name};

/// Bytes for a message in which the kernel may have merged datagrams: it makes none of more than an
/// IP packet holds.
const MERGED_LEN: usize = 64 * 1024;
/// Such messages taken at once. Their buffers are as much memory as those of single datagrams are in
/// the dataplane, and with little in each they stay in the processor's cache.
const MERGED_MESSAGES: usize = 16;
/// Failures in a row after which a socket is given up.
const MOST_FAILURES: u32 = 1000;
/// Most datagrams in a message: `UDP_MAX_SEGMENTS` of kernels since 6.9, earlier ones merge 64.
const MAX_SEGMENTS: usize = 128;

/// Buffers for received datagrams.
pub struct RxBatch {
    storage: Vec<u8>,
    names: Vec<Name>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    found: Vec<Found>,
    capacity: usize,
    buffer_len: usize,
    /// Whether messages may hold several datagrams, which decides how `storage` is divided.
    merged: bool,
    refused: usize,
    /// Calls in a row that failed.
    failures: u32,
}

/// Where a datagram lies in the storage, and its addresses.
#[derive(Clone, Copy)]
struct Found {
    start: usize,
    len: usize,
    peer: SocketAddr,
    local: SocketAddr,
    tos: u8,
    /// The first of its message.
    first: bool,
}

/// A received message: `count` datagrams, each of `segment` bytes but the last.
struct Message {
    peer: SocketAddr,
    local: SocketAddr,
    tos: u8,
    len: usize,
    segment: usize,
    count: usize,
}

/// One datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where it came from.
    pub peer: SocketAddr,
    /// Where it was sent to.
    pub local: SocketAddr,
    /// Its TOS or traffic class; 0 where the kernel does not tell.
    pub tos: u8,
    /// Its bytes; writable, for decryption in place.
    pub bytes: &'a mut [u8],
}

impl RxBatch {
    /// Most datagrams in a batch, if the kernel merges them.
    pub const MAX_DATAGRAMS: usize = MERGED_MESSAGES * MAX_SEGMENTS;

    /// Room for `capacity` messages, each a datagram of at most `buffer_len` bytes, or for at most 16
    /// messages in which the kernel has merged such datagrams. Longer datagrams are refused.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: mmsghdr is integers and pointers; zero is a value of each.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let merged_len = capacity.min(MERGED_MESSAGES) * MERGED_LEN;
        Self {
            // Memory that nothing is received into is not there.
            storage: vec![0; merged_len.max(capacity * buffer_len)],
            names: vec![Name::EMPTY; capacity],
            controls: vec![Control::EMPTY; capacity],
            parts: vec![part; capacity],
            headers: vec![header; capacity],
            found: Vec::with_capacity(capacity),
            capacity,
            buffer_len,
            merged: false,
            refused: 0,
            failures: 0,
        }
    }

    /// Number of datagrams in it.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Datagrams of the last batch that were too long, or messages without addresses.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Datagram number `index`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn datagram(&mut self, index: usize) -> Received<'_> {
        let found = self.found[index];
        Received {
            peer: found.peer,
            local: found.local,
            tos: found.tos,
            bytes: &mut self.storage[found.start..found.start + found.len],
        }
    }

    /// Whether datagram number `index` is the first of a message.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn begins_message(&self, index: usize) -> bool {
        self.found[index].first
    }

    /// The bytes of datagram number `index`, as they are now.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let found = self.found[index];
        &self.storage[found.start..found.start + found.len]
    }

    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        bound: SocketAddr,
        merged: bool,
    ) -> io::Result<usize> {
        self.merged = merged;
        self.prepare();
        let count = self.messages() as libc::c_uint;
        // SAFETY: `prepare` made every header point at buffers of this struct with their true
        // lengths; they stay in place through the call.
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
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => return Ok(0),
                Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => {}
                // Most are told once and then forgotten: answers to datagrams sent earlier, want of
                // memory, an administrator's `ss --kill`. The socket lives, unless they do not end.
                _ if self.failures < MOST_FAILURES => {
                    self.failures += 1;
                    return Ok(0);
                }
                _ => {}
            }
            return Err(error);
        };
        self.failures = 0;
        for index in 0..received {
            match self.inspect(index, bound) {
                Some(message) => self.hand_out(index, &message),
                None => self.refused += 1,
            }
        }
        Ok(self.found.len())
    }

    /// Messages taken at once.
    fn messages(&self) -> usize {
        if self.merged {
            self.capacity.min(MERGED_MESSAGES)
        } else {
            self.capacity
        }
    }

    /// Room for each.
    fn message_len(&self) -> usize {
        if self.merged {
            MERGED_LEN
        } else {
            self.buffer_len
        }
    }

    /// Points every header at its buffers. Done for each call, since the kernel writes lengths back.
    fn prepare(&mut self) {
        self.found.clear();
        self.refused = 0;
        let (messages, message_len) = (self.messages(), self.message_len());
        let buffers = self.storage.chunks_exact_mut(message_len);
        for (part, buffer) in self.parts.iter_mut().zip(buffers) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
        }
        for (index, header) in self.headers[..messages].iter_mut().enumerate() {
            header.msg_hdr.msg_name = self.names[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut self.parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
        }
    }

    /// What is in a message; `None`: it cannot be used.
    fn inspect(&self, index: usize, bound: SocketAddr) -> Option<Message> {
        let header = &self.headers[index];
        // Without all control messages several datagrams would look like one.
        if header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        let name = self.names[index]
            .0
            .get(..header.msg_hdr.msg_namelen as usize)?;
        let peer = read_name(name)?;
        let control = self.controls[index]
            .0
            .get(..header.msg_hdr.msg_controllen)?;
        let Told {
            local,
            segment,
            tos,
        } = read_control(control)?;
        let len = (header.msg_len as usize).min(self.message_len());
        let segment = segment.map_or(len, NonZeroUsize::get);
        // One of no bytes is a datagram too.
        let count = len.div_ceil(segment.max(1)).max(1);
        (count <= MAX_SEGMENTS).then_some(Message {
            peer,
            local: SocketAddr::new(local?, bound.port()),
            tos,
            len,
            segment,
            count,
        })
    }

    /// Divides a message into its datagrams.
    fn hand_out(&mut self, index: usize, message: &Message) {
        let start = index * self.message_len();
        for number in 0..message.count {
            let offset = number * message.segment;
            let len = message.segment.min(message.len - offset);
            if len > self.buffer_len {
                self.refused += 1;
                continue;
            }
            self.found.push(Found {
                start: start + offset,
                len,
                peer: message.peer,
                local: message.local,
                tos: message.tos,
                first: number == 0,
            });
        }
    }
}
