//! The gate processes: started, fed with connections, replaced.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use ocserv_sys::seqpacket;

use super::peers::Peer;
use super::{Event, Supervisor};
use crate::ipc::channel::memfd_with;
use crate::ipc::dataplane::ToDataplane;
use crate::ipc::gate::{EndReason, FromGate, ToGate};
use crate::ipc::ids::{ConnId, GateId};
use crate::ipc::secmod::ToSecmod;
use crate::role::Role;

/// Signing channels of a shared gate: as many handshakes wait for secmod at once.
const SIGNERS_SHARED: usize = 4;
/// Signing channels of a gate that serves few connections.
const SIGNERS_OWN: usize = 1;
/// A gate that dies before it was ready is not replaced at once.
const RESTART_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Bytes that may wait in each direction of a packet link.
const LINK_BUFFER: usize = 2 << 20;
/// Connections in one shared gate.
const SHARED_CAPACITY: u32 = 16 * 1024;

/// One gate.
#[derive(Debug)]
pub struct Gate {
    /// The process.
    pub peer: Peer<ToGate>,
    /// Its connections.
    pub connections: HashSet<ConnId>,
    /// It said that it is sandboxed and configured.
    pub ready: bool,
    /// Connections that it has been given.
    pub given: u32,
    /// It has channels to the secmod that runs now.
    pub linked_to_secmod: bool,
}

/// All gates.
#[derive(Debug, Default)]
pub struct Gates {
    /// By id, oldest first.
    pub all: BTreeMap<GateId, Gate>,
    next: u32,
}

/// The two ends of a packet link, with room for bursts.
fn packet_link() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = seqpacket::pair()?;
    seqpacket::set_buffers(one.as_fd(), LINK_BUFFER)?;
    seqpacket::set_buffers(other.as_fd(), LINK_BUFFER)?;
    Ok((one, other))
}

impl Supervisor {
    /// Starts what `sessions-per-gate` asks for at the beginning.
    pub fn start_gates(&mut self) {
        let count = if self.config.sessions_per_gate == 0 {
            self.threads
        } else {
            1
        };
        for _ in 0..count {
            self.start_gate();
        }
    }

    fn start_gate(&mut self) {
        self.gates.next += 1;
        let id = GateId(self.gates.next);
        let peer = Peer::start::<FromGate>(
            &self.role_arguments(Role::Gate),
            0,
            self.events.clone(),
            move |message| Event::FromGate(id, message),
            move || Event::GateGone(id),
        );
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!("cannot start a gate: {error}");
                self.restart_gate_later();
                return;
            }
        };
        match memfd_with(&self.gate_setup()) {
            Ok(setup) => peer.send(ToGate::Configure, vec![setup]),
            Err(error) => tracing::error!("cannot configure a gate: {error}"),
        }
        let gate = Gate {
            peer,
            connections: HashSet::new(),
            ready: false,
            given: 0,
            linked_to_secmod: false,
        };
        self.gates.all.insert(id, gate);
        self.link_gate_to_secmod(id);
        self.link_gate_to_dataplane(id);
    }

    fn restart_gate_later(&self) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RESTART_PAUSE).await;
            let _ = events.send(Event::StartGate).await;
        });
    }

    /// A pause after a failed start is over.
    pub fn on_start_gate(&mut self) {
        if self.stopping.is_none() && self.gates_wanted() {
            self.start_gate();
        }
    }

    fn gates_wanted(&self) -> bool {
        if self.config.sessions_per_gate == 0 {
            self.gates.all.len() < self.threads
        } else {
            !self
                .gates
                .all
                .values()
                .any(|gate| gate.given < self.config.sessions_per_gate)
        }
    }

    /// Makes the question and signing channels between a gate and secmod.
    pub fn link_gate_to_secmod(&mut self, id: GateId) {
        // One that has no keys yet gets its gates when it has them.
        if self.secmod_failures > 0 {
            return;
        }
        let (Some(secmod), Some(gate)) = (&self.secmod, self.gates.all.get_mut(&id)) else {
            return;
        };
        let signers = if self.config.sessions_per_gate == 0 {
            SIGNERS_SHARED
        } else {
            SIGNERS_OWN
        };
        let pairs: std::io::Result<Vec<_>> = (0..=signers).map(|_| seqpacket::pair()).collect();
        let (ours, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = match pairs {
            Ok(pairs) => pairs.into_iter().unzip(),
            Err(error) => {
                tracing::error!("cannot connect a gate to the security module: {error}");
                return;
            }
        };
        secmod.send(ToSecmod::GateAdded { gate: id }, ours);
        gate.peer.send(ToGate::Secmod, theirs);
        gate.linked_to_secmod = true;
    }

    /// Makes the packet link between a gate and the dataplane.
    pub fn link_gate_to_dataplane(&mut self, id: GateId) {
        let (Some(dataplane), Some(gate)) = (&self.dataplane, self.gates.all.get(&id)) else {
            return;
        };
        match packet_link() {
            Ok((ours, theirs)) => {
                dataplane.send(ToDataplane::GateAdded { gate: id }, vec![ours]);
                gate.peer.send(ToGate::Dataplane, vec![theirs]);
            }
            Err(error) => tracing::error!("cannot connect a gate to the dataplane: {error}"),
        }
    }

    /// Gives every gate the configuration in force.
    pub fn configure_gates(&mut self) {
        let setup = match memfd_with(&self.gate_setup()) {
            Ok(setup) => setup,
            Err(error) => {
                tracing::error!("cannot configure the gates: {error}");
                return;
            }
        };
        for gate in self.gates.all.values() {
            match setup.try_clone() {
                Ok(fd) => gate.peer.send(ToGate::Configure, vec![fd]),
                Err(error) => tracing::error!("cannot configure a gate: {error}"),
            }
        }
    }

    /// The gate for the next connection: the one with the fewest, started when there is none.
    pub fn choose_gate(&mut self) -> Option<GateId> {
        let per_gate = self.config.sessions_per_gate;
        let room = |gate: &Gate| {
            if per_gate == 0 {
                gate.connections.len() < SHARED_CAPACITY as usize
            } else {
                gate.given < per_gate
            }
        };
        let best = |gates: &Gates| {
            let free = gates.all.iter().filter(|(_, gate)| room(gate));
            free.min_by_key(|(_, gate)| (!gate.ready, gate.connections.len()))
                .map(|(id, _)| *id)
        };
        let chosen = best(&self.gates).or_else(|| {
            if per_gate != 0 {
                self.start_gate();
            }
            best(&self.gates)
        })?;
        if let Some(gate) = self.gates.all.get_mut(&chosen) {
            gate.given += 1;
        }
        // The next client finds a gate that is up already.
        if per_gate != 0 && self.gates_wanted() {
            self.start_gate();
        }
        Some(chosen)
    }

    /// A gate's process ended, or broke the protocol and must.
    pub async fn on_gate_gone(&mut self, id: GateId) {
        let Some(gate) = self.gates.all.remove(&id) else {
            return;
        };
        let expected = self.stopping.is_some() || self.gate_is_done(&gate);
        if !expected {
            tracing::error!(
                "gate {} (pid {}) is gone with {} connections; they may come back with their cookies",
                id.0,
                gate.peer.pid(),
                gate.connections.len()
            );
        }
        if let Some(dataplane) = &self.dataplane {
            dataplane.send(ToDataplane::GateRemoved { gate: id }, Vec::new());
        }
        let (ready, connections) = (gate.ready, gate.connections);
        tokio::spawn(gate.peer.finish());
        for conn in connections {
            self.connection_closed(conn, EndReason::Unspecified).await;
        }
        if expected || !self.gates_wanted() {
            return;
        }
        if ready {
            self.start_gate()
        } else {
            self.restart_gate_later()
        }
    }

    /// With `sessions-per-gate = N` a gate ends when it has served its N connections.
    fn gate_is_done(&self, gate: &Gate) -> bool {
        let per_gate = self.config.sessions_per_gate;
        per_gate != 0 && gate.given >= per_gate && gate.connections.is_empty()
    }

    /// Ends a gate that broke the rules; its clients come back with their cookies.
    pub fn kill_gate(&mut self, id: GateId, crime: &str) {
        tracing::error!("gate {} {crime}: killed", id.0);
        if let Some(gate) = self.gates.all.get_mut(&id) {
            gate.peer.kill();
        }
    }

    /// Forgets a connection of a gate, and the gate with its last one where that is due.
    pub fn leave_gate(&mut self, id: GateId, conn: ConnId) {
        let Some(gate) = self.gates.all.get_mut(&id) else {
            return;
        };
        gate.connections.remove(&conn);
        let Some(gate) = self.gates.all.get(&id) else {
            return;
        };
        if self.gate_is_done(gate) {
            gate.peer.send(ToGate::Stop, Vec::new());
        }
    }
}
