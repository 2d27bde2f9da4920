//! Receiving.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{CONTROL_LEN, Control, Name, read_local, read_name};

/// Buffers for received datagrams.
pub struct RxBatch {
    storage: Vec<u8>,
    names: Vec<Name>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    found: Vec<Found>,
    buffer_len: usize,
    refused: usize,
}

/// What a datagram's control messages told.
#[derive(Clone, Copy)]
struct Found {
    index: usize,
    len: usize,
    peer: SocketAddr,
    local: SocketAddr,
}

/// One datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where it came from.
    pub peer: SocketAddr,
    /// Where it was sent to.
    pub local: SocketAddr,
    /// Its bytes; writable, for decryption in place.
    pub bytes: &'a mut [u8],
}

impl RxBatch {
    /// Room for `capacity` datagrams of at most `buffer_len` bytes; longer ones are refused.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: mmsghdr is integers and pointers; zero is a value of each.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            storage: vec![0; capacity * buffer_len],
            names: vec![Name::EMPTY; capacity],
            controls: vec![Control::EMPTY; capacity],
            parts: vec![part; capacity],
            headers: vec![header; capacity],
            found: Vec::with_capacity(capacity),
            buffer_len,
            refused: 0,
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

    /// Datagrams of the last batch that were too long, or without addresses.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Datagram number `index`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn datagram(&mut self, index: usize) -> Received<'_> {
        let found = self.found[index];
        let start = found.index * self.buffer_len;
        let bytes = &mut self.storage[start..start + found.len];
        Received {
            peer: found.peer,
            local: found.local,
            bytes,
        }
    }

    /// The bytes of datagram number `index`, as they are now.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let found = self.found[index];
        let start = found.index * self.buffer_len;
        &self.storage[start..start + found.len]
    }

    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        bound: SocketAddr,
    ) -> io::Result<usize> {
        self.prepare();
        let count = self.headers.len() as libc::c_uint;
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
            return match error.raw_os_error() {
                // The latter are answers to datagrams sent earlier, told once.
                Some(
                    libc::EAGAIN
                    | libc::EINTR
                    | libc::ECONNREFUSED
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EMSGSIZE,
                ) => Ok(0),
                _ => Err(error),
            };
        };
        for index in 0..received {
            match self.inspect(index, bound) {
                Some(found) => self.found.push(found),
                None => self.refused += 1,
            }
        }
        Ok(self.found.len())
    }

    /// Points every header at its buffers. Done for each call, since the kernel writes lengths back.
    fn prepare(&mut self) {
        self.found.clear();
        self.refused = 0;
        let buffers = self.storage.chunks_exact_mut(self.buffer_len);
        for (part, buffer) in self.parts.iter_mut().zip(buffers) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
        }
        for (index, header) in self.headers.iter_mut().enumerate() {
            header.msg_hdr.msg_name = self.names[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut self.parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
        }
    }

    fn inspect(&self, index: usize, bound: SocketAddr) -> Option<Found> {
        let header = &self.headers[index];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let name = self.names[index]
            .0
            .get(..header.msg_hdr.msg_namelen as usize)?;
        let peer = read_name(name)?;
        let control = self.controls[index]
            .0
            .get(..header.msg_hdr.msg_controllen)?;
        let ip: IpAddr = read_local(control)?;
        let len = (header.msg_len as usize).min(self.buffer_len);
        Some(Found {
            index,
            len,
            peer,
            local: SocketAddr::new(ip, bound.port()),
        })
    }
}
