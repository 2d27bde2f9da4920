//! TCP segments without connections: raw sockets that send and count them.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use ocserv_tests::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use super::packet;

/// Bytes; a merged packet counts with all that its buffers hold.
const BUFFER: usize = 4 * 1024 * 1024;
/// The longest that IPv4 has.
const LONGEST: usize = 65_535;
/// Packets that are taken at once.
const MOST: usize = 64;
/// Nobody has these connections, and the kernel would answer each segment.
const RULES: &str = "table inet silence {
    chain answers { type filter hook output priority 0; tcp flags rst drop; }
}";

/// Sends whole packets, and receives all TCP of its namespace.
pub struct RawPort(Socket);

impl RawPort {
    /// Opens it in a namespace.
    ///
    /// # Errors
    /// Without root.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
            socket.set_header_included_v4(true)?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
            io::Result::Ok(socket)
        };
        let socket = namespace.run(open)?.context("raw socket")?;
        Ok(Self(socket))
    }

    /// Sends a packet, headers included, and returns whether the kernel took it.
    pub fn send(&self, packet: &[u8], to: Ipv4Addr) -> bool {
        let to = SocketAddrV4::new(to, 0).into();
        self.0.send_to(packet, &to).is_ok()
    }

    /// Takes what waits and returns how many segments with so long a payload
    /// came to a port. Payloads that the kernel has merged count as what they were.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn receive(&self, buffer: &mut Vec<u8>, port: u16, payload: usize) -> io::Result<Segments> {
        buffer.resize(LONGEST, 0);
        let mut segments = Segments::default();
        for _ in 0..MOST {
            let length = match (&self.0).read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let Some(data) = packet::tcp_payload(&buffer[..length], port) else {
                continue;
            };
            segments.add(data, payload);
        }
        Ok(segments)
    }
}

impl AsFd for RawPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What came.
#[derive(Debug, Default)]
pub struct Segments {
    /// Segments of the right length.
    pub good: usize,
    /// Packets of another.
    pub others: usize,
    /// The last good payload.
    pub last: Vec<u8>,
}

impl Segments {
    fn add(&mut self, data: &[u8], payload: usize) {
        if data.is_empty() || !data.len().is_multiple_of(payload) {
            self.others += 1;
            return;
        }
        self.good += data.len() / payload;
        self.last = data[data.len() - payload..].to_vec();
    }
}

/// While it lives, a namespace does not refuse connections.
pub struct Silence(Namespace);

impl Silence {
    /// Begins it.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn in_namespace(namespace: &Namespace) -> Result<Self> {
        namespace.nft(RULES)?;
        Ok(Self(namespace.clone()))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The namespace may have gone, and its rules with it.
        let _ = self.0.nft("delete table inet silence");
    }
}

#[cfg(test)]
mod tests {
    use super::Segments;

    #[test]
    fn merged_segments_count_as_what_they_were() {
        let mut segments = Segments::default();
        segments.add(&[1; 100], 100);
        segments.add(&[2; 300], 100);
        for odd in [0, 99, 250] {
            segments.add(&[3; 300][..odd], 100);
        }
        assert_eq!((segments.good, segments.others), (4, 3));
        assert_eq!(segments.last, [2; 100]);
    }
}
