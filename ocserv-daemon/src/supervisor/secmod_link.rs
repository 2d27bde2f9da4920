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

/// A secmod that lived shorter than this is not replaced at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// The pause before it is.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Pause between attempts to give secmod the configuration in force.
const CONFIGURE_PAUSE: Duration = Duration::from_secs(5);
/// More restarts than this without a success end the server.
const MAX_FAILED_STARTS: u32 = 5;

impl Supervisor {
    /// Starts secmod, gives it the configuration and what its predecessor knew.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_secmod(&mut self) -> anyhow::Result<()> {
        self.secmod_since = Instant::now();
        self.secmod_starts += 1;
        let start = self.secmod_starts;
        let peer = Peer::start::<FromSecmod>(
            &self.role_arguments(Role::Secmod),
            self.records.len(),
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
            self.tell_secmod(ToSecmod::Restore {
                sessions: piece.to_vec(),
            });
        }
        Ok(())
    }

    /// What was said to a secmod that died may be lost: the tunnels of now count.
    fn close_records_without_tunnel(&mut self) {
        let open: HashSet<SessionName> = self
            .connections
            .values()
            .filter_map(|c| Some(c.any_tunnel()?.name.clone()))
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
            FromSecmod::AuthFailed {
                conn,
                remote,
                username,
                points,
            } => {
                self.stats.auth_failed();
                let local = self.connections.get_mut(&conn).map(|connection| {
                    connection.stage = Stage::AuthFailed;
                    connection.username = username;
                    connection.ticket.local.ip()
                });
                self.add_ban_points(remote, local.unwrap_or(remote), points);
            }
            FromSecmod::AuthSucceeded {
                conn,
                username,
                name: _,
                took,
            } => {
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
        self.secmod_ready = true;
        if let Some((config, files)) = self.pending.take() {
            let before = std::mem::replace(&mut self.config, config);
            self.files = files;
            self.generation += 1;
            self.apply_reload(&before).await;
        }
        if self.dataplane_starts == 0 {
            return self.open_for_business().await;
        }
        self.configure_gates();
        let gates: Vec<GateId> = self.gates.all.keys().copied().collect();
        for gate in gates {
            if self
                .gates
                .all
                .get(&gate)
                .is_some_and(|gate| !gate.linked_to_secmod)
            {
                self.link_gate_to_secmod(gate);
            }
        }
        self.reload_again();
        Ok(())
    }

    /// Before the server is open a configuration that does not work ends the start. Later the old
    /// one stays, and a secmod that cannot even take that one is asked again until it can.
    fn on_configure_failed(&mut self, message: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.dataplane_starts > 0, "{message}");
        if self.secmod_ready {
            tracing::error!("the configuration in force is kept: {message}");
            self.pending = None;
            self.reload_again();
        } else {
            tracing::error!("the security module cannot work, nobody can log in: {message}");
            self.send_later(CONFIGURE_PAUSE, Event::ConfigureSecmod(self.secmod_starts));
        }
        Ok(())
    }

    /// A pause after a failed configuration of that secmod is over.
    ///
    /// # Errors
    /// When the memfd cannot be made.
    pub fn on_configure_secmod(&mut self, start: u32) -> anyhow::Result<()> {
        if start != self.secmod_starts || self.secmod_ready {
            return Ok(());
        }
        self.configure_secmod(&self.config())
    }

    pub(super) fn send_later(&self, pause: Duration, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = events.send(event).await;
        });
    }

    /// Reloads that came while another was under way.
    fn reload_again(&mut self) {
        if std::mem::take(&mut self.reload_wanted)
            && let Err(error) = self.reload()
        {
            tracing::error!("the configuration in force is kept: {error:#}");
        }
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
            tracing::error!(
                "the security module (pid {}) is gone; it is replaced",
                secmod.pid()
            );
            tokio::spawn(secmod.finish());
        }
        self.secmod_failures += 1;
        anyhow::ensure!(
            self.dataplane_starts > 0 && self.secmod_failures < MAX_FAILED_STARTS,
            "the security module does not stay alive"
        );
        let waiting: Vec<ConnId> = self.questions.drain().map(|(_, conn)| conn).collect();
        for conn in waiting {
            self.refuse_tunnel(conn, TunnelRefused::Internal);
        }
        // Logins that were under way are lost; their users see the form again.
        self.records
            .retain(|_, record| record.authenticated.is_some());
        for gate in self.gates.all.values_mut() {
            gate.linked_to_secmod = false;
        }
        // A reload that it did not answer is tried again with its successor.
        self.reload_wanted |= self.pending.take().is_some();
        self.secmod_ready = false;
        if self.secmod_since.elapsed() < SHORT_LIFE {
            self.send_later(RESTART_PAUSE, Event::StartSecmod);
            return Ok(());
        }
        self.start_secmod()
    }

    fn has_tunnel(&self, name: &SessionName) -> bool {
        self.connections.values().any(|c| c.uses(name))
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
