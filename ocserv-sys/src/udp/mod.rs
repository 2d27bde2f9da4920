//! UDP in batches: `recvmmsg` and `sendmmsg` with the local address beside each datagram, so that
//! an answer leaves from where the question came (protocol.md 8.6).
//!
//! A message of either call may hold several datagrams of one flow, which then take one walk through
//! the network stack together: `UDP_SEGMENT` towards the client, `UDP_GRO` from it (udp(7)). Callers
//! see datagrams only.

mod message;
mod receive;
mod runs;
mod send;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

pub use receive::{Received, RxBatch};
pub use send::{Destination, Marking, SendReport, TxBatch};

/// Asked for as socket buffers, bytes; the kernel may grant less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How a port treats datagrams that do not fit the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// DF set: a datagram that is too long is refused with EMSGSIZE (`try-mtu-discovery`).
    Discover,
    /// DF clear: routers and the kernel fragment.
    Fragment,
}

/// Binds a UDP socket for the dataplane. With `reuse_port` one such socket can be bound for each
/// thread; the kernel spreads flows over them.
///
/// # Errors
/// `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without it a restarted server cannot take the port while an old one drains.
    socket.set_reuse_port(reuse_port)?;
    // The privileged form passes the system's limit; without the right the plain one must do.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
        socket.set_send_buffer_size(BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether the kernel takes a priority with each datagram (Linux 6.14).
pub fn takes_priority() -> bool {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) else {
        return false;
    };
    let bound = socket.bind(&any.into()).and_then(|()| socket.local_addr());
    let Some(peer) = bound.ok().and_then(|address| address.as_socket()) else {
        return false;
    };
    let mut batch = TxBatch::new(1, 1);
    let marking = Some(Marking::Priority(0));
    batch.commit(
        0,
        &Destination {
            peer,
            source: None,
            marking,
        },
        0,
    );
    batch.send(socket.as_fd(), &AtomicBool::new(false)).refused == 0
}

/// One bound UDP socket.
#[derive(Debug)]
pub struct UdpPort {
    fd: OwnedFd,
    local: SocketAddr,
    /// Whether it is bound to all addresses of both families.
    dual: bool,
    /// Whether the kernel cuts runs into datagrams: unlearned when a device does not.
    cuts_runs: AtomicBool,
    /// Whether received messages may hold several datagrams.
    merges: bool,
    /// Whether it is this port that the socket's datagrams are read from.
    reads: bool,
}

impl UdpPort {
    /// Makes a bound socket ready for batches: non-blocking, local addresses and TOS reported, datagrams of
    /// a flow merged where the kernel can.
    ///
    /// # Errors
    /// When it is not a bound IP socket.
    pub fn new(fd: OwnedFd, path_mtu: PathMtu) -> io::Result<Self> {
        let socket = Socket::from(fd);
        socket.set_nonblocking(true)?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::InvalidInput)?;
        if local.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            message::set_int_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        let dual = is_dual(&socket, local)?;
        // IPv4 comes by sockets of both families.
        message::set_int_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_path_mtu(&socket, local.is_ipv4(), path_mtu)?;
        if dual {
            set_path_mtu(&socket, true, path_mtu)?;
        }
        // A kernel that does not know the option would send a run as one datagram.
        let cuts_runs = set_udp_option(&socket, libc::UDP_SEGMENT, 0).is_ok();
        let merges = set_udp_option(&socket, libc::UDP_GRO, 1).is_ok();
        Ok(Self {
            fd: socket.into(),
            local,
            dual,
            cuts_runs: AtomicBool::new(cuts_runs),
            merges,
            reads: true,
        })
    }

    /// The address that it is bound to; may be unspecified.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether datagrams from `local` can be sent here.
    pub fn serves(&self, local: SocketAddr) -> bool {
        self.local.port() == local.port()
            && (self.local.is_ipv4() == local.is_ipv4() || self.dual)
            && (self.local.ip().is_unspecified() || self.local.ip() == local.ip())
    }

    /// Several ports may share a socket: all but one must be told that they only send.
    pub fn set_reads(&mut self, reads: bool) {
        self.reads = reads;
    }

    /// Whether it is this port that the socket's datagrams are read from.
    pub fn reads(&self) -> bool {
        self.reads
    }

    /// Receives waiting datagrams with one system call, at most [`RxBatch::MAX_DATAGRAMS`]; 0 when
    /// none wait.
    ///
    /// # Errors
    /// `recvmmsg(2)`, if the socket cannot be used any more.
    pub fn recv_batch(&self, batch: &mut RxBatch) -> io::Result<usize> {
        batch.receive(self.fd.as_fd(), self.local, self.merges)
    }

    /// Sends and empties the batch.
    pub fn send_batch(&self, batch: &mut TxBatch) -> SendReport {
        batch.send(self.fd.as_fd(), &self.cuts_runs)
    }

    /// Whether runs of datagrams go as one message.
    pub fn sends_runs(&self) -> bool {
        self.cuts_runs.load(Ordering::Relaxed)
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Ours are not, but one that a service manager hands over may be.
fn is_dual(socket: &Socket, local: SocketAddr) -> io::Result<bool> {
    Ok(local.is_ipv6() && local.ip().is_unspecified() && !socket.only_v6()?)
}

fn set_path_mtu(socket: &Socket, ipv4: bool, path_mtu: PathMtu) -> io::Result<()> {
    let (level, option, value) = match (ipv4, path_mtu) {
        (true, PathMtu::Discover) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        (true, PathMtu::Fragment) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        (false, PathMtu::Discover) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
        (false, PathMtu::Fragment) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
    };
    message::set_int_option(socket.as_fd(), level, option, value)
}

fn set_udp_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    message::set_int_option(socket.as_fd(), libc::SOL_UDP, option, value)
}

/// IPv4 addresses in IPv6 clothes, as sessions name them, in their own form.
fn canonical(ip: Ipv6Addr) -> IpAddr {
    IpAddr::V6(ip).to_canonical()
}

#[cfg(test)]
mod tests;
