//! Sockets past the stack (`xdp-sockets`): what programs hand over, and what leaves by devices directly.
//!
//! A packet stays in its frame: from a client it is opened in place and sent by a LAN device from where it
//! lies; to a client it is sealed into another frame. What has no such way goes by the tun device or the UDP
//! sockets, as without all this.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ocserv_common::datagram::{self, ETHERNET, HEAD, Head, RECORD_HEADER};
use ocserv_common::kernel::{Address, FlowKey, RouteFrame, ip};
use ocserv_proto::Now;
use ocserv_sys::bpf_run;
use ocserv_sys::xsk::{Frame, Frames, Lost, Socket};

use super::channel::Flow;
use super::mailbox::AddedSocket;
use super::trouble::{News, Trouble};
use super::ways::{Question, Way, Ways};
use super::{BATCH, SocketParts};

/// Frames that wait in a socket for what comes. More would hold more in a pause, and be less often in the
/// processor's caches.
const FILLED: u32 = 512;

/// The sockets of a thread.
pub struct Sockets {
    pub(super) frames: Frames,
    ports: Vec<Option<Port>>,
    ways: Ways,
    route: Arc<OwnedFd>,
    pub(super) tun_ifindex: u32,
    pub(super) dont_fragment: bool,
    /// What is being worked on.
    pub(super) batch: Vec<Frame>,
    /// Of it, what goes by the tun device.
    pub(super) by_tun: Vec<Frame>,
    trouble: Trouble,
}

struct Port {
    ifindex: u32,
    is_lan: bool,
    socket: Socket,
    /// Something was put to be sent.
    is_dirty: bool,
    lost: Lost,
}

/// Why a packet was not put to be sent.
pub(super) enum NotSent {
    /// No socket of this thread has the device.
    NoPort(Frame),
    /// Its ring is full.
    Full,
}

impl Sockets {
    pub(super) fn new(parts: SocketParts) -> Self {
        Self {
            frames: parts.frames,
            ports: Vec::new(),
            ways: Ways::default(),
            route: parts.route,
            tun_ifindex: parts.tun_ifindex,
            dont_fragment: parts.dont_fragment,
            batch: Vec::with_capacity(BATCH),
            by_tun: Vec::with_capacity(BATCH),
            trouble: Trouble::default(),
        }
    }

    /// Takes a socket; its number.
    pub(super) fn add(&mut self, added: AddedSocket) -> usize {
        let port = Port {
            ifindex: added.ifindex,
            is_lan: added.is_lan,
            socket: added.socket,
            is_dirty: false,
            lost: Lost::default(),
        };
        let free = self.ports.iter().position(Option::is_none);
        let index = free.unwrap_or(self.ports.len());
        match self.ports.get_mut(index) {
            Some(place) => *place = Some(port),
            None => self.ports.push(Some(port)),
        }
        for port in 0..self.ports.len() {
            self.refill(port);
        }
        index
    }

    /// The socket of that number, to watch it.
    pub(super) fn socket(&self, index: usize) -> Option<&Socket> {
        Some(&self.ports.get(index)?.as_ref()?.socket)
    }

    /// Ends the sockets of a device. `stop` is called with each before.
    pub(super) fn forget(&mut self, ifindex: u32, mut stop: impl FnMut(&Socket)) {
        for place in &mut self.ports {
            if let Some(port) = place.take_if(|port| port.ifindex == ifindex) {
                stop(&port.socket);
                port.socket.end(&mut self.frames);
            }
        }
    }

    /// Takes a batch of a socket: whether it is of the LAN, and its device. `None`: there is no such socket.
    pub(super) fn receive(&mut self, index: usize) -> Option<(bool, u32)> {
        let port = self.ports.get_mut(index)?.as_mut()?;
        port.socket
            .receive(&mut self.frames, &mut self.batch, BATCH);
        Some((port.is_lan, port.ifindex))
    }

    /// A frame to write a packet into.
    pub(super) fn take_frame(&mut self) -> Option<Frame> {
        if self.frames.free() == 0 {
            for port in self.ports.iter_mut().flatten() {
                port.socket.reclaim(&mut self.frames);
            }
        }
        self.frames.take()
    }

    /// The way of a packet of `len` bytes.
    pub(super) fn way(&mut self, now: Now, question: &Question, len: usize) -> Option<Way> {
        let route = &self.route;
        let ask = |frame: &mut RouteFrame| {
            let mut bytes = frame.to_bytes();
            let answered = bpf_run::run(&**route, &mut bytes).is_ok();
            *frame = RouteFrame::from_bytes(&bytes);
            answered
        };
        self.ways.find(now, question, len, ask)
    }

    /// Whether this thread can send by a device.
    pub(super) fn has_port(&self, egress: u32, is_lan: bool) -> bool {
        let mut ports = self.ports.iter().flatten();
        ports.any(|port| port.ifindex == egress && port.is_lan == is_lan)
    }

    /// Puts a whole Ethernet frame where [`Self::flush`] sends it from.
    pub(super) fn send(&mut self, egress: u32, is_lan: bool, frame: Frame) -> Result<(), NotSent> {
        let mut ports = self.ports.iter_mut().flatten();
        let port = ports.find(|port| port.ifindex == egress && port.is_lan == is_lan);
        let Some(port) = port else {
            return Err(NotSent::NoPort(frame));
        };
        port.is_dirty = true;
        if let Err(frame) = port.socket.send(&mut self.frames, frame) {
            self.frames.give_back(frame);
            return Err(NotSent::Full);
        }
        Ok(())
    }

    /// Sends what was put to be sent.
    pub(super) fn flush(&mut self) {
        for port in self.ports.iter_mut().flatten().filter(|port| port.is_dirty) {
            match port.socket.flush(&mut self.frames) {
                Ok(is_all) => port.is_dirty = !is_all,
                Err(error) => {
                    // It is tried again with what comes next, or the supervisor takes the socket away.
                    port.is_dirty = false;
                    self.trouble.note(0, 1, error.raw_os_error());
                }
            }
        }
    }

    /// Whether something waits for another [`Self::flush`].
    pub(super) fn has_unsent(&self) -> bool {
        self.ports.iter().flatten().any(|port| port.is_dirty)
    }

    /// Gives a socket frames to receive into.
    pub(super) fn refill(&mut self, index: usize) {
        let sockets = self.ports.iter().flatten().count().max(1);
        // Half is for what is on its way out.
        let share = self.frames.count() / 2 / sockets;
        if let Some(Some(port)) = self.ports.get_mut(index) {
            port.socket
                .refill(&mut self.frames, FILLED.min(share as u32));
        }
    }

    /// Packets that the kernel lost since the last call; also says what does not send.
    pub(super) fn look_after(&mut self, thread: usize) -> u64 {
        match self.trouble.look() {
            Some(News::Began(lost, reason)) => {
                tracing::warn!(
                    thread,
                    lost,
                    "a socket past the stack does not send: {reason}"
                );
            }
            Some(News::Over) => tracing::info!(thread, "sockets past the stack send again"),
            None => {}
        }
        let mut sum = 0;
        for port in self.ports.iter_mut().flatten() {
            if let Ok(lost) = port.socket.lost() {
                let before = std::mem::replace(&mut port.lost, lost);
                sum += lost.received.saturating_sub(before.received);
                sum += lost.sent.saturating_sub(before.sent);
            }
        }
        sum
    }
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A record within a frame from a device towards clients.
pub(super) struct Received {
    pub(super) flow: Flow,
    /// The outer TOS byte.
    pub(super) tos: u8,
    /// IP stands directly behind the Ethernet header.
    pub(super) is_untagged: bool,
    /// Where the record lies in `whole`.
    pub(super) record: Range<usize>,
}

/// Reads the headers of a frame that lies in `whole[start..][..len]`.
pub(super) fn read_headers(
    whole: &[u8],
    (start, len): (usize, usize),
    ifindex: u32,
) -> Option<Received> {
    let head: &Head = whole.get(start..)?.first_chunk::<HEAD>()?;
    let mut key = FlowKey::new(NOBODY, NOBODY);
    let record = datagram::parse(head, len, 0, &mut key).ok()?;
    let begin = start + record.offset;
    let end = begin + RECORD_HEADER + record.length;
    (end <= start + len).then(|| Received {
        flow: Flow {
            peer: socket_address(key.peer, key.peer_port, ifindex),
            local: socket_address(key.local, key.local_port, ifindex),
        },
        tos: record.tos,
        is_untagged: datagram::network_header(head).1 == ETHERNET,
        record: begin..end,
    })
}

/// An address as `recvmsg(2)` has it: a link-local one with its link.
fn socket_address(address: Address, port: [u8; 2], ifindex: u32) -> SocketAddr {
    let mut address = SocketAddr::new(ip(address), u16::from_be_bytes(port));
    if let SocketAddr::V6(v6) = &mut address
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(ifindex);
    }
    address
}
