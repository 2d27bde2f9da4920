//! Sockets (AF_XDP) that the programs hand packets over to, and the program that knows the host's routes.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, XskMap};
use aya::programs::Xdp;
use ocserv_common::kernel::{SOCKET_DEVICES, SOCKET_QUEUES};

use super::{KernelPath, missing};

/// Loaded for those who have sockets.
pub(super) const ROUTE_PROGRAM: &str = "xdp_route";

/// The maps.
pub(super) struct SocketMaps {
    sockets: XskMap<MapData>,
    queues: HashMap<MapData, u32, u32>,
    /// Devices by their place in `sockets`.
    devices: [Option<u32>; SOCKET_DEVICES as usize],
}

impl SocketMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            sockets: map("SOCKETS")?.try_into()?,
            queues: map("QUEUES")?.try_into()?,
            devices: [None; SOCKET_DEVICES as usize],
        })
    }

    fn add(&mut self, ifindex: u32, queue: u32, socket: impl AsFd) -> anyhow::Result<()> {
        ensure!(
            queue < SOCKET_QUEUES,
            "queue {queue} is beyond the {SOCKET_QUEUES} that can have sockets"
        );
        let place = |wanted| self.devices.iter().position(|device| *device == wanted);
        let place = place(Some(ifindex)).or_else(|| place(None));
        let place =
            place.with_context(|| format!("sockets for more than {SOCKET_DEVICES} devices"))?;
        let first = place as u32 * SOCKET_QUEUES;
        self.sockets.set(first + queue, socket.as_fd(), 0)?;
        self.devices[place] = Some(ifindex);
        Ok(self.queues.insert(ifindex, first, 0)?)
    }

    fn forget(&mut self, ifindex: u32) {
        let known = |device: &Option<u32>| *device == Some(ifindex);
        let Some(place) = self.devices.iter().position(known) else {
            return;
        };
        // What is not there need not be removed.
        let _ = self.queues.remove(&ifindex);
        let first = place as u32 * SOCKET_QUEUES;
        for index in first..first + SOCKET_QUEUES {
            let _ = self.sockets.unset(index);
        }
        self.devices[place] = None;
    }
}

impl KernelPath {
    /// Has the programs hand what a device's queue receives over to a socket (AF_XDP) that is bound to it, as long as
    /// the socket is open. [`Self::attach`] and [`Self::detach`] forget a device's sockets.
    ///
    /// # Errors
    /// When the queue's number is 64 or more, when 16 other devices have sockets, or as the kernel answers.
    pub fn add_socket(
        &mut self,
        ifindex: u32,
        queue: u32,
        socket: impl AsFd,
    ) -> anyhow::Result<()> {
        self.sockets.add(ifindex, queue, socket)
    }

    /// Leaves what a device receives to the stack again.
    pub fn forget_sockets(&mut self, ifindex: u32) {
        self.sockets.forget(ifindex);
    }

    /// The program that answers questions to the routing table, for test runs
    /// (`ocserv_common::kernel::RouteFrame`).
    ///
    /// # Errors
    /// When it is not loaded ([`Options::sockets`](super::Options::sockets)).
    pub fn route_program(&self) -> anyhow::Result<OwnedFd> {
        let program = self.ebpf.program(ROUTE_PROGRAM);
        let program: &Xdp = program.ok_or_else(|| missing(ROUTE_PROGRAM))?.try_into()?;
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }
}
