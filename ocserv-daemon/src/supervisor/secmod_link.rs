//! Secmod as the supervisor sees it: start, restart, what it tells.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use ocserv_proto::config::Config;

use super::bans::Added;
use super::peers::Peer;
use super::setup::Learned;
use super::state::Stage;
use super::{Event, Supervisor};
use crate::ipc::channel::memfd_with;
use crate::ipc::gate::TunnelRefused;
use crate::ipc::ids::{ConnId, GateId, SessionName};
use crate::ipc::secmod::{FromSecmod, SecmodSetup, ToSecmod};
use crate::role::Role;

/// More restarts than this without a success end the server.
const MAX_FAILED_STARTS: u32 = 5;

impl Supervisor {
    /// Starts secmod, gives it the configuration and what its predecessor knew.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_secmod(&mut self) -> anyhow::Result<()> {
        self.secmod_starts += 1;
        let start = self.secmod_starts;
        let peer = Peer::start::<FromSecmod>(
            &self.role_arguments(Role::Secmod),
            self.events.clone(),
            Event::FromSecmod,
            move || Event::SecmodGone(start),
        )
        .context("cannot start the security module")?;
        self.secmod = Some(peer);
        self.configure_secmod(&self.config())?;
        self.close_records_without_tunnel();
        let sessions = self.records.values().cloned().collect::<Vec<_>>();
        // In pieces: a message between the processes has a limit.
        for piece in sessions.chunks(100) {
            self.tell_secmod(ToSecmod::Restore { sessions: piece.to_vec() });
        }
        Ok(())
    }

    /// What was said to a secmod that died may be lost: the tunnels of now count.
    fn close_records_without_tunnel(&mut self) {
        let open: HashSet<SessionName> = self
            .connections
            .values()
            .filter_map(|c| Some(c.tunnel.as_ref()?.name.clone()))
            .collect();
        for record in self.records.values_mut().filter(|record| record.in_use) {
            if !open.contains(&record.name) {
                let vhost = self.config.vhosts.get(record.vhost as usize);
                let life = vhost.map_or(Duration::ZERO, |vhost| vhost.cookie_timeout);
                record.in_use = false;
                record.conn = None;
                record.expires = Some(SystemTime::now() + life);
            }
        }
    }

    /// Sends a configuration; secmod answers `Configured` or `ConfigureFailed`.
    ///
    /// # Errors
    /// When the memfd cannot be made.
    pub fn configure_secmod(&self, config: &Arc<Config>) -> anyhow::Result<()> {
        let setup = SecmodSetup {
            config: Config::clone(config),
            ticket_key: self.ticket_key.clone(),
        };
        let fd = memfd_with(&setup).context("cannot pass the configuration on")?;
        if let Some(secmod) = &self.secmod {
            secmod.send(ToSecmod::Configure, vec![fd]);
        }
        Ok(())
    }

    /// Sends a message without descriptors.
    pub fn tell_secmod(&self, message: ToSecmod) {
        if let Some(secmod) = &self.secmod {
            secmod.send(message, Vec::new());
        }
    }

    /// Handles what secmod says.
    ///
    /// # Errors
    /// When the configuration of the start cannot be used.
    pub async fn on_secmod_message(&mut self, message: FromSecmod) -> anyhow::Result<()> {
        match message {
            FromSecmod::Configured { auto_groups, keys } => {
                self.on_configured(Learned { auto_groups, keys }).await?;
            }
            FromSecmod::ConfigureFailed { message } => self.on_configure_failed(&message)?,
            FromSecmod::SessionOpened { request, result } => {
                self.on_session_opened(request, result).await;
            }
            FromSecmod::SessionChanged(record) => {
                self.records.insert(record.name.clone(), *record);
            }
            FromSecmod::SessionGone { name } => {
                self.records.remove(&name);
                if !self.has_tunnel(&name) {
                    self.leases.release(&name);
                }
            }
            FromSecmod::AuthFailed { conn, remote, username, points } => {
                self.stats.auth_failed();
                let local = self.connections.get_mut(&conn).map(|connection| {
                    connection.stage = Stage::AuthFailed;
                    connection.username = username;
                    connection.ticket.local.ip()
                });
                self.add_ban_points(remote, local.unwrap_or(remote), points);
            }
            FromSecmod::AuthSucceeded { conn, username, name: _, took } => {
                self.stats.auth_succeeded(took);
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.stage = Stage::Authenticated;
                    connection.username = username;
                }
            }
        }
        Ok(())
    }

    async fn on_configured(&mut self, learned: Learned) -> anyhow::Result<()> {
        self.learned = learned;
        self.secmod_failures = 0;
        if let Some((config, files)) = self.pending.take() {
            self.config = config;
            self.files = files;
            self.generation += 1;
            self.apply_reload().await;
        }
        if self.dataplane.is_none() {
            return self.open_for_business().await;
        }
        self.configure_gates();
        let gates: Vec<GateId> = self.gates.all.keys().copied().collect();
        for gate in gates {
            if self.gates.all.get(&gate).is_some_and(|gate| !gate.linked_to_secmod) {
                self.link_gate_to_secmod(gate);
            }
        }
        Ok(())
    }

    fn on_configure_failed(&mut self, message: &str) -> anyhow::Result<()> {
        if self.pending.take().is_some() {
            tracing::error!("the configuration in force is kept: {message}");
            return Ok(());
        }
        anyhow::bail!("{message}")
    }

    /// Secmod's process ended: a new one takes over, sessions live on.
    ///
    /// # Errors
    /// When it dies again and again, or before the server was open.
    pub async fn on_secmod_gone(&mut self, start: u32) -> anyhow::Result<()> {
        if start != self.secmod_starts || self.stopping.is_some() {
            return Ok(());
        }
        if let Some(secmod) = self.secmod.take() {
            tracing::error!("the security module (pid {}) is gone; it is replaced", secmod.pid());
            tokio::spawn(secmod.finish());
        }
        self.secmod_failures += 1;
        anyhow::ensure!(
            self.dataplane.is_some() && self.secmod_failures < MAX_FAILED_STARTS,
            "the security module does not stay alive"
        );
        let waiting: Vec<ConnId> = self.questions.drain().map(|(_, conn)| conn).collect();
        for conn in waiting {
            self.refuse_tunnel(conn, TunnelRefused::Internal);
        }
        // Logins that were under way are lost; their users see the form again.
        self.records.retain(|_, record| record.authenticated.is_some());
        for gate in self.gates.all.values_mut() {
            gate.linked_to_secmod = false;
        }
        self.start_secmod()
    }

    fn has_tunnel(&self, name: &SessionName) -> bool {
        self.connections.values().any(|c| c.tunnel.as_ref().is_some_and(|t| &t.name == name))
    }

    /// Counts points for a client's address.
    pub fn add_ban_points(&mut self, remote: IpAddr, local: IpAddr, points: u32) {
        if points == 0 || remote == local {
            return;
        }
        match self.bans.add(remote, points, Instant::now()) {
            Added::Banned { score, lasts } => {
                let until = ocserv_sys::local_time::text(SystemTime::now() + lasts);
                tracing::info!(
                    "added IP '{remote}' (with score {score}) to ban list, will be reset at: {until}"
                );
            }
            Added::Scored { total } => tracing::debug!(
                "added {points} points (total {total}) for IP '{remote}' to ban list"
            ),
            Added::Nothing => {}
        }
    }
}
