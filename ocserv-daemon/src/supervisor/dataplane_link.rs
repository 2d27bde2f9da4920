//! The dataplane as the supervisor sees it: start, restart, keys.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use ocserv_proto::dtls::ChannelKeys;
use ocserv_sys::shared_map::Backing;

use super::peers::Peer;
use super::shards::Shards;
use super::state::{InstalledChannel, Slots};
use super::{Event, Supervisor};
use crate::ipc::dataplane::{FromDataplane, ToDataplane};
use crate::ipc::gate::ToGate;
use crate::ipc::ids::{ConnId, GateId, Slot};
use crate::kernel_path::KernelPath;
use crate::role::Role;

/// What a session needs after a restart: itself, and the keys of two channels.
const MESSAGES_PER_SESSION: usize = 3;
/// Keys of one tunnel at most this often: a client that handshakes without end wins nothing.
const MIN_KEY_INTERVAL: Duration = Duration::from_secs(1);
/// A dataplane that lived shorter than this is not replaced at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// The pause before it is.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A slot for a tunnel, whose record exists when this returns, and in the dataplane before the session
/// does.
pub fn take_slot(
    slots: &mut Slots,
    shards: &mut Shards,
    kernel: Option<&mut KernelPath>,
    dataplane: Option<&Peer<ToDataplane>>,
) -> Option<Slot> {
    let Some(slot) = slots.take() else {
        tracing::error!("every session record is in use");
        return None;
    };
    match shards.make_for(slot, kernel) {
        Ok(None) => {}
        Ok(Some((index, memory))) => {
            if let Some(dataplane) = dataplane {
                dataplane.send(ToDataplane::ShardAdded { index }, vec![memory]);
            }
        }
        Err(error) => {
            tracing::error!("cannot make session records: {error}");
            slots.give_back(slot);
            return None;
        }
    }
    Some(slot)
}

impl Supervisor {
    /// Starts the dataplane and tells it of everything that is open.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_dataplane(&mut self) -> anyhow::Result<()> {
        self.dataplane_since = Instant::now();
        self.dataplane_starts += 1;
        let start = self.dataplane_starts;
        let peer = Peer::start::<FromDataplane>(
            &self.role_arguments(Role::Dataplane),
            MESSAGES_PER_SESSION * self.shared.slots(),
            self.events.clone(),
            Event::FromDataplane,
            move || Event::DataplaneGone(start),
        )
        .context("cannot start the dataplane")?;
        let (setup, fds) = self
            .dataplane_setup()
            .context("cannot set the dataplane up")?;
        peer.send(setup, fds);
        for (index, memory) in self
            .shared
            .all()
            .context("cannot share the session records")?
        {
            peer.send(ToDataplane::ShardAdded { index }, vec![memory]);
        }
        self.dataplane = Some(peer);
        let gates: Vec<GateId> = self.gates.all.keys().copied().collect();
        for gate in gates {
            self.link_gate_to_dataplane(gate);
        }
        self.restore_sessions();
        self.open_sockets();
        Ok(())
    }

    fn dataplane_setup(&mut self) -> std::io::Result<(ToDataplane, Vec<OwnedFd>)> {
        let sockets = self.begin_sockets();
        let has_sockets = sockets.is_some();
        let (memory, route) = sockets.unzip();
        let mut memory = memory.unwrap_or_default().into_iter();
        let mut fds = Vec::new();
        let udp_per_thread = self.listeners.udp.first().map_or(0, Vec::len);
        for (thread, queue) in self.tun.queues().iter().enumerate() {
            fds.push(queue.try_clone()?);
            for socket in self.listeners.udp.get(thread).into_iter().flatten() {
                fds.push(socket.try_clone()?);
            }
            fds.extend(memory.next());
        }
        fds.extend(route);
        let setup = ToDataplane::Setup {
            threads: self.threads as u32,
            udp_per_thread: udp_per_thread as u32,
            slots: self.shared.slots() as u32,
            kernel_maps: self.shared.backing() == Backing::KernelMap,
            try_mtu_discovery: self.config.try_mtu_discovery,
            costs: self.costs,
            sockets: has_sockets,
            tun_ifindex: self.network.index(),
            log_level: self.logging.level,
        };
        Ok((setup, fds))
    }

    fn restore_sessions(&mut self) {
        self.forget_path_mtus();
        let tunnels = self.connections.values().filter_map(|c| c.tunnel.as_ref());
        let mut tunnels: Vec<_> = tunnels.collect();
        // The last one told has the networks that several have: the newest, as in the kernel's tables.
        tunnels.sort_by_key(|tunnel| tunnel.order);
        for tunnel in tunnels {
            self.tell_dataplane(ToDataplane::SessionAdded(Box::new(tunnel.params.clone())));
            for (channel, installed) in tunnel.channels.iter().enumerate() {
                let Some(installed) = installed else { continue };
                self.tell_dataplane(installed.message(tunnel.slot, channel as u8));
            }
        }
    }

    /// Another dataplane begins its searches with what was agreed on, and tells only what differs.
    fn forget_path_mtus(&mut self) {
        let connections = self.connections.values_mut();
        for tunnel in connections.filter_map(|c| c.tunnel.as_mut()) {
            let agreed = tunnel.params.mtu;
            if tunnel.mtu == 0 || tunnel.mtu == agreed {
                continue;
            }
            tunnel.mtu = agreed;
            if let Some(kernel) = &mut self.kernel {
                kernel.set_mtu(tunnel.slot.0, agreed);
            }
        }
    }

    /// Sends a message without descriptors.
    pub fn tell_dataplane(&self, message: ToDataplane) {
        if let Some(dataplane) = &self.dataplane {
            dataplane.send(message, Vec::new());
        }
    }

    /// Handles what the dataplane says.
    pub fn on_dataplane_message(&mut self, message: FromDataplane) {
        match message {
            FromDataplane::Ready => tracing::debug!("the dataplane is up"),
            FromDataplane::KeysInstalled { slot } => {
                if let Some(conn) = self.by_slot(slot) {
                    // Before the client's first record can come.
                    self.install_in_kernel(conn);
                    self.tell_gate(conn, ToGate::KeysInstalled { conn });
                }
            }
            FromDataplane::PeerMoved {
                slot,
                channel,
                generation,
                peer,
                local,
            } => self.on_peer_moved(slot, (channel.into(), generation), (peer, local)),
            FromDataplane::MtuChanged { slot, mtu } => self.on_path_mtu(slot, mtu),
            FromDataplane::ChannelEnded {
                slot,
                channel,
                generation,
            } => self.on_channel_ended(slot, channel.into(), generation),
            FromDataplane::SocketReady { ifindex, queue } => self.on_socket_ready(ifindex, queue),
            FromDataplane::SocketRefused {
                ifindex,
                queue,
                error,
            } => self.on_socket_refused(ifindex, queue, &error),
            FromDataplane::OutputCosts { thread, ns } => self.on_output_costs(thread, ns),
        }
    }

    fn by_slot(&self, slot: Slot) -> Option<ConnId> {
        let mut all = self.connections.iter();
        all.find(|(_, c)| c.tunnel.as_ref().is_some_and(|t| t.slot == slot))
            .map(|(id, _)| *id)
    }

    /// A channel is at another address. One that has ended, or whose record has other keys by now, is
    /// no matter any more.
    fn on_peer_moved(
        &mut self,
        slot: Slot,
        (channel, generation): (usize, u64),
        (peer, local): (SocketAddr, SocketAddr),
    ) {
        let Some(conn) = self.by_slot(slot) else {
            return;
        };
        let tunnel = self
            .connections
            .get_mut(&conn)
            .and_then(|c| c.tunnel.as_mut());
        let Some(tunnel) = tunnel.filter(|tunnel| tunnel.has_keys(channel, generation)) else {
            return;
        };
        tracing::info!(user = %tunnel.username, remote = %peer, "the DTLS channel moved to this address");
        if let Some(installed) = tunnel.channels.get_mut(channel).and_then(Option::as_mut) {
            (installed.peer, installed.local) = (peer, local);
        }
        self.move_in_kernel(slot, channel, peer, local);
    }

    /// What occtl shows. What was agreed on stays the upper bound, also for another dataplane.
    fn on_path_mtu(&mut self, slot: Slot, mtu: u16) {
        let Some(conn) = self.by_slot(slot) else {
            return;
        };
        if let Some(tunnel) = self
            .connections
            .get_mut(&conn)
            .and_then(|c| c.tunnel.as_mut())
        {
            tunnel.mtu = mtu.min(tunnel.params.mtu);
            if let Some(kernel) = &mut self.kernel {
                kernel.set_mtu(slot.0, tunnel.mtu);
            }
        }
    }

    fn on_channel_ended(&mut self, slot: Slot, channel: usize, generation: u64) {
        let Some(conn) = self.by_slot(slot) else {
            return;
        };
        let tunnel = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref());
        // Other keys may have taken its place meanwhile.
        if tunnel.is_some_and(|tunnel| tunnel.has_keys(channel, generation)) {
            self.forget_channel(conn, channel);
        }
    }

    /// Forgets the keys of a channel record, if it has any. Whatever ends the use of keys comes by
    /// here: the channel is over, its record gets other keys, the tunnel closes.
    pub(super) fn forget_channel(&mut self, conn: ConnId, channel: usize) {
        let Some(tunnel) = self
            .connections
            .get_mut(&conn)
            .and_then(|c| c.tunnel.as_mut())
        else {
            return;
        };
        if let Some(former) = tunnel.channels.get_mut(channel).and_then(Option::take) {
            tracing::debug!(
                user = %tunnel.username, channel, generation = former.generation,
                "keys of a DTLS channel forgotten"
            );
            if let Some(kernel) = &mut self.kernel {
                kernel.end_channel(tunnel.slot.0, channel);
            }
        }
    }

    /// The dataplane's process ended: another takes over. Sequence numbers and replay windows are
    /// in the session records and go on.
    pub async fn on_dataplane_gone(&mut self, start: u32) {
        if start != self.dataplane_starts || self.stopping.is_some() {
            return;
        }
        // Its end may be told twice, by reading and by writing.
        let Some(dataplane) = self.dataplane.take() else {
            return;
        };
        tracing::error!(
            "the dataplane (pid {}) is gone; it is replaced",
            dataplane.pid()
        );
        self.end_sockets();
        // Two writers must not live at once.
        dataplane.finish().await;
        if self.dataplane_since.elapsed() < SHORT_LIFE {
            self.send_later(RESTART_PAUSE, Event::StartDataplane);
        } else {
            self.on_start_dataplane().await;
        }
    }

    /// Starts another dataplane, unless the server ends.
    pub async fn on_start_dataplane(&mut self) {
        if self.stopping.is_some() || self.dataplane.is_some() {
            return;
        }
        if let Err(error) = self.start_dataplane() {
            tracing::error!("{error:#}");
            self.begin_stop().await;
        }
    }

    /// A gate finished a DTLS handshake for one of its sessions.
    pub fn on_install_keys(
        &mut self,
        conn: ConnId,
        keys: ChannelKeys,
        (peer, local): (SocketAddr, SocketAddr),
        cipher: String,
    ) {
        let Some(tunnel) = self
            .connections
            .get_mut(&conn)
            .and_then(|c| c.tunnel.as_mut())
        else {
            return;
        };
        let now = Instant::now();
        if tunnel
            .last_keys
            .is_some_and(|last| now - last < MIN_KEY_INTERVAL)
        {
            return;
        }
        tunnel.last_keys = Some(now);
        let channel = tunnel.next_channel;
        tunnel.next_channel = 1 - channel;
        tunnel.dtls_cipher = super::tunnels::printable(&cipher);
        self.generation_of_keys += 1;
        let installed = InstalledChannel {
            keys,
            peer,
            local,
            generation: self.generation_of_keys,
        };
        self.install_channel(conn, channel, installed);
    }

    /// Puts keys into a channel record, in place of former ones.
    fn install_channel(&mut self, conn: ConnId, channel: u8, installed: InstalledChannel) {
        self.forget_channel(conn, channel.into());
        let tunnel = self
            .connections
            .get_mut(&conn)
            .and_then(|c| c.tunnel.as_mut());
        let Some(tunnel) = tunnel else {
            return;
        };
        let message = installed.message(tunnel.slot, channel);
        if let Some(place) = tunnel.channels.get_mut(usize::from(channel)) {
            *place = Some(installed);
        }
        self.tell_dataplane(message);
    }
}
