//! The end of tunnels and connections.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ocserv_proto::config::Route;
use tokio::sync::Semaphore;

use super::scripts::{self, Hook, ScriptContext};
use super::state::Tunnel;
use super::{Supervisor, datapath_info, opening};
use crate::ipc::dataplane::ToDataplane;
use crate::ipc::gate::{EndReason, ToGate};
use crate::ipc::ids::{ConnId, SessionName};
use crate::ipc::secmod::ToSecmod;

/// How long a gate may take to end a connection before the supervisor counts it as ended.
const END_DEADLINE: Duration = Duration::from_secs(6);
/// What a gate gets beyond `auth-timeout` before the supervisor ends a login itself.
const GATE_PATIENCE: Duration = Duration::from_secs(60);
/// What the server adds to `cookie-timeout` (behaviour.md 5.3).
const COOKIE_SLACK: Duration = Duration::from_secs(15);

/// The end of a tunnel that is not over yet: its routes and its script.
#[derive(Debug)]
pub struct Closing {
    /// Its session.
    name: SessionName,
    /// Its iroutes.
    iroutes: Vec<Route>,
    /// Closed when all is done.
    pub done: Arc<Semaphore>,
}

impl Supervisor {
    /// The same cookie in another tunnel: that one ends, its addresses move to the new one. A tunnel
    /// that is only being set up ends too; its task undoes what it did.
    pub(super) async fn replace_old_tunnel(&mut self, conn: ConnId, name: &SessionName) {
        let others = self
            .connections
            .iter()
            .filter(|(id, c)| **id != conn && c.uses(name));
        let old: Vec<ConnId> = others.map(|(id, _)| *id).collect();
        for id in old {
            self.tell_gate(
                id,
                ToGate::Disconnect {
                    conn: id,
                    reason: EndReason::Replaced,
                },
            );
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.ending = Some((EndReason::Replaced, Instant::now()));
                let opening = connection.opening.take();
                if let Some(tunnel) = opening.and_then(|opening| opening.tunnel) {
                    self.slots.give_back(tunnel.slot);
                }
            }
            self.close_tunnel(id, EndReason::Replaced).await;
        }
    }

    /// A connection is over: with its tunnel, if it had one.
    pub async fn connection_closed(&mut self, conn: ConnId, reason: EndReason) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        // What the supervisor decided outweighs what the gate saw of it.
        let reason = connection.ending.map_or(reason, |(decided, _)| decided);
        self.close_tunnel(conn, reason).await;
        let Some(connection) = self.connections.remove(&conn) else {
            return;
        };
        if let Some(tunnel) = connection.opening.and_then(|opening| opening.tunnel) {
            self.forget_tunnel(&tunnel, true);
            let name = tunnel.name;
            self.tell_secmod(ToSecmod::CloseSession {
                name,
                conn,
                keep_cookie: true,
            });
        }
        self.leave_gate(connection.gate, conn);
    }

    /// Takes a tunnel down: dataplane, routes, leases, script, statistics, cookie.
    async fn close_tunnel(&mut self, conn: ConnId, reason: EndReason) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let Some(tunnel) = &connection.tunnel else {
            return;
        };
        let lasted = tunnel.connected.elapsed().unwrap_or_default();
        self.publish(conn, Some((reason, lasted)));
        for channel in 0..2 {
            self.forget_channel(conn, channel);
        }
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let Some(tunnel) = connection.tunnel.take() else {
            return;
        };
        let ticket = connection.ticket.clone();
        self.tell_dataplane(ToDataplane::SessionRemoved { slot: tunnel.slot });
        if let Some(kernel) = &mut self.kernel {
            kernel.close_session(tunnel.slot.0);
        }
        let shared = &self.shared[tunnel.slot];
        let traffic = datapath_info::traffic(shared);
        let (rx, tx) = (traffic.rx_bytes, traffic.tx_bytes);
        self.stats.drops_ended(shared);
        tracing::info!(
            user = %tunnel.username,
            remote = %ticket.remote,
            "user disconnected (reason: {}, rx: {rx}, tx: {tx})",
            reason.words()
        );
        let keep_cookie = self.keeps_cookie(&tunnel, reason);
        let context = self.script_context(&tunnel, &ticket, Some((rx, tx, lasted)));
        for (address, prefix) in tunnel.host_routes() {
            self.network.remove_route(address, prefix).await;
        }
        self.close_in_background(tunnel.name.clone(), tunnel.settings.iroute.clone(), context);
        self.stats.session_ended(reason, lasted, traffic);
        if self.config.use_utmp {
            opening::record_use(&self.device, &tunnel, ticket.remote.ip(), false);
        }
        self.forget_tunnel(&tunnel, keep_cookie);
        if reason != EndReason::Replaced {
            let name = tunnel.name;
            self.tell_secmod(ToSecmod::CloseSession {
                name,
                conn,
                keep_cookie,
            });
        }
        self.fit_device_mtu().await;
    }

    fn keeps_cookie(&self, tunnel: &Tunnel, reason: EndReason) -> bool {
        match reason {
            EndReason::UserDisconnect => {
                let vhost = self.config.vhosts.get(tunnel.vhost as usize);
                vhost.is_some_and(|vhost| vhost.persistent_cookies)
            }
            EndReason::SessionTimeout | EndReason::ServerDisconnect => false,
            _ => true,
        }
    }

    /// Routes and script of a tunnel's end, in their own time. Whoever opens a tunnel for the same
    /// session or with the same iroutes waits for it.
    pub(super) fn close_in_background(
        &mut self,
        name: SessionName,
        iroutes: Vec<Route>,
        context: ScriptContext,
    ) {
        let unused = self.release_iroutes(&iroutes);
        let (config, network) = (self.config.clone(), self.network.clone());
        let device = self.device.clone();
        let done = Arc::new(Semaphore::new(0));
        self.closing.retain(|end| !end.done.is_closed());
        self.closing.push(Closing {
            name,
            iroutes,
            done: done.clone(),
        });
        tokio::spawn(async move {
            opening::remove_iroutes(&config, &network, &device, &unused).await;
            if let Err(error) = scripts::run_hook(&config, Hook::Disconnect, &context).await {
                tracing::warn!("{error}");
            }
            done.close();
        });
    }

    /// The ends that a new tunnel has to wait for (behaviour.md 7.5).
    pub(super) fn ends_before(&self, name: &SessionName, iroutes: &[Route]) -> Vec<Arc<Semaphore>> {
        let same = |end: &&Closing| {
            &end.name == name || end.iroutes.iter().any(|route| iroutes.contains(route))
        };
        self.closing
            .iter()
            .filter(same)
            .map(|end| end.done.clone())
            .collect()
    }

    /// Counts a use of these iroutes; gives those that are new.
    pub(super) fn use_iroutes(&mut self, iroutes: &[Route]) -> Vec<Route> {
        let mut new = Vec::new();
        for route in iroutes {
            let users = self
                .iroute_users
                .entry((route.net, route.prefix))
                .or_default();
            *users += 1;
            if *users == 1 {
                new.push(*route);
            }
        }
        new
    }

    /// The opposite; gives those that nobody uses any more.
    pub(super) fn release_iroutes(&mut self, iroutes: &[Route]) -> Vec<Route> {
        let mut unused = Vec::new();
        for route in iroutes {
            let key = (route.net, route.prefix);
            let Some(users) = self.iroute_users.get_mut(&key) else {
                continue;
            };
            *users -= 1;
            if *users == 0 {
                self.iroute_users.remove(&key);
                unused.push(*route);
            }
        }
        unused
    }

    /// Frees what a tunnel held. Its addresses stay reserved while the cookie is good, because a
    /// client that comes back must get the same ones.
    pub(super) fn forget_tunnel(&mut self, tunnel: &Tunnel, keep_cookie: bool) {
        self.slots.give_back(tunnel.slot);
        if self.connections.values().any(|c| c.uses(&tunnel.name)) {
            // The session is open, or being opened, on another connection: its addresses stay.
            return;
        }
        if keep_cookie {
            let vhost = self.config.vhosts.get(tunnel.vhost as usize);
            let life = vhost.map_or(Duration::ZERO, |vhost| vhost.cookie_timeout);
            self.leases
                .hold(&tunnel.name, SystemTime::now() + life + COOKIE_SLACK);
        } else {
            self.leases.release(&tunnel.name);
        }
    }

    /// Ends a connection by decision of the server.
    pub fn disconnect(&mut self, conn: ConnId, reason: EndReason) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        if connection.ending.is_none() {
            connection.ending = Some((reason, Instant::now()));
            self.tell_gate(conn, ToGate::Disconnect { conn, reason });
        }
    }

    /// Idle and session timeouts, and connections whose gate does not end them.
    pub async fn end_overdue_tunnels(&mut self) {
        let (now, monotonic) = (SystemTime::now(), Self::monotonic_secs());
        let pre_auth = self.config.auth_timeout + GATE_PATIENCE;
        let mut due = Vec::new();
        let mut stuck = Vec::new();
        for (conn, connection) in &self.connections {
            if let Some((reason, since)) = connection.ending {
                if since.elapsed() >= END_DEADLINE {
                    stuck.push((*conn, reason));
                }
                continue;
            }
            let Some(tunnel) = &connection.tunnel else {
                // The gate's own deadline comes first; this one is for a gate that hangs.
                let waits = now.duration_since(connection.since).unwrap_or_default();
                if connection.opening.is_none() && waits >= pre_auth {
                    due.push((*conn, EndReason::Unspecified));
                }
                continue;
            };
            let last_data = self.shared[tunnel.slot].last_data_secs.get();
            let idle = monotonic.saturating_sub(last_data);
            let age = now.duration_since(tunnel.authenticated).unwrap_or_default();
            if tunnel
                .settings
                .session_timeout
                .is_some_and(|limit| age >= limit)
            {
                due.push((*conn, EndReason::SessionTimeout));
            } else if tunnel
                .idle_timeout()
                .is_some_and(|limit| idle >= limit.as_secs())
            {
                due.push((*conn, EndReason::IdleTimeout));
            }
        }
        for (conn, reason) in due {
            self.disconnect(conn, reason);
        }
        for (conn, reason) in stuck {
            self.connection_closed(conn, reason).await;
        }
    }
}
