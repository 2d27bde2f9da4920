//! A tunnel's life: cookie, leases, script, grant; and its end.

use std::net::IpAddr;

use ocserv_proto::config::{Route, UserConfig};

use super::dataplane_link::take_slot;
use super::opening::SetUpFailed;
use super::scripts::{self, Hook, ScriptContext};
use super::state::{Opening, Tunnel};
use super::{Event, Supervisor, opening};
use crate::ipc::dataplane::ToDataplane;
use crate::ipc::gate::{FromGate, ToGate, TunnelGrant, TunnelRefused, TunnelRequest};
use crate::ipc::ids::{ConnId, GateId, SessionName};
use crate::ipc::secmod::{OpenRefused, OpenedSession, ToSecmod};

/// What the set-up task of a tunnel reports: the connect script agreed and the routes stand.
pub type OpenResult = Result<(), SetUpFailed>;

/// What undoes a set-up that nobody wants any more.
#[derive(Debug)]
pub struct Undo {
    /// The session.
    name: SessionName,
    /// Its iroutes.
    iroutes: Vec<Route>,
    /// What the scripts are told.
    context: ScriptContext,
}

/// Addresses that are probed for one tunnel at most (behaviour.md 6.2).
const MAX_PROBES: u32 = 16;

/// What a gate says of ciphers, fit for occtl; never empty.
pub fn printable(text: &str) -> String {
    let text: String = text
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .take(128)
        .collect();
    if text.is_empty() {
        "unknown".to_owned()
    } else {
        text
    }
}

impl Supervisor {
    /// Handles what a gate says. A gate may only speak of its own connections.
    pub async fn on_gate_message(&mut self, gate: GateId, message: FromGate) {
        let conn = match &message {
            FromGate::Ready => {
                if let Some(gate) = self.gates.all.get_mut(&gate) {
                    gate.ready = true;
                }
                return;
            }
            FromGate::OpenTunnel { conn, .. }
            | FromGate::TunnelUp { conn, .. }
            | FromGate::InstallKeys { conn, .. }
            | FromGate::Closed { conn, .. } => *conn,
        };
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        if connection.gate != gate {
            self.kill_gate(gate, "speaks of a connection that is not its own");
            return;
        }
        match message {
            FromGate::Ready => {}
            FromGate::OpenTunnel { conn, request } => self.on_open_tunnel(conn, request),
            FromGate::TunnelUp {
                conn,
                mtu,
                tls_cipher,
            } => {
                self.on_tunnel_up(conn, mtu, tls_cipher).await;
            }
            FromGate::InstallKeys {
                conn,
                keys,
                peer,
                local,
                cipher,
            } => {
                self.on_install_keys(conn, *keys, (peer, local), cipher);
            }
            FromGate::Closed { conn, reason } => {
                self.connection_closed(conn, reason.by_client()).await;
            }
        }
    }

    /// Sends a message to the gate of a connection.
    pub fn tell_gate(&self, conn: ConnId, message: ToGate) {
        let gate = self
            .connections
            .get(&conn)
            .and_then(|c| self.gates.all.get(&c.gate));
        if let Some(gate) = gate {
            gate.peer.send(message, Vec::new());
        }
    }

    /// CONNECT with a cookie: secmod says whose it is.
    fn on_open_tunnel(&mut self, conn: ConnId, mut request: Box<TunnelRequest>) {
        self.next_question += 1;
        let step = self.next_question;
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        if std::mem::replace(&mut connection.asked, true) {
            let gate = connection.gate;
            self.kill_gate(gate, "asks twice for a tunnel");
            return;
        }
        request.trim();
        let question = ToSecmod::OpenSession {
            request: step,
            ticket: connection.ticket.clone(),
            cookie: request.cookie.clone(),
        };
        connection.opening = Some(Opening {
            step,
            request,
            tunnel: None,
            search: None,
            probes: 0,
        });
        self.questions.insert(step, conn);
        self.tell_secmod(question);
    }

    /// Tells a gate that a tunnel does not come to be.
    pub fn refuse_tunnel(&mut self, conn: ConnId, why: TunnelRefused) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.opening = None;
        }
        self.tell_gate(
            conn,
            ToGate::Tunnel {
                conn,
                result: Err(why),
            },
        );
    }

    /// Secmod's answer about a cookie.
    pub async fn on_session_opened(
        &mut self,
        step: u64,
        result: Result<Box<OpenedSession>, OpenRefused>,
    ) {
        let Some(conn) = self.questions.remove(&step) else {
            return;
        };
        let waiting = self.connections.get(&conn).and_then(|c| c.opening.as_ref());
        let still_waiting = waiting.is_some_and(|opening| opening.step == step);
        let session = match result {
            Ok(session) if still_waiting => session,
            Ok(session) => {
                // The client left meanwhile.
                let name = session.record.name.clone();
                self.tell_secmod(ToSecmod::CloseSession {
                    name,
                    conn,
                    keep_cookie: true,
                });
                return;
            }
            Err(why) => {
                let remote = self.connections.get(&conn).map(|c| c.ticket.remote);
                tracing::info!(remote = ?remote, "a cookie was refused: {why:?}");
                if still_waiting {
                    self.refuse_tunnel(conn, TunnelRefused::Cookie);
                }
                return;
            }
        };
        let name = session.record.name.clone();
        if let Err((why, keep_cookie)) = self.set_up_tunnel(conn, session).await {
            self.tell_secmod(ToSecmod::CloseSession {
                name,
                conn,
                keep_cookie,
            });
            self.refuse_tunnel(conn, why);
        }
    }

    /// Leases, slot and script. The error says whether the cookie stays good.
    async fn set_up_tunnel(
        &mut self,
        conn: ConnId,
        session: Box<OpenedSession>,
    ) -> Result<(), (TunnelRefused, bool)> {
        let cookie = |keep| (TunnelRefused::Cookie, keep);
        self.replace_old_tunnel(conn, &session.record.name).await;
        let OpenedSession { record, settings } = *session;
        if self.too_many_of(&record.username, record.vhost, &settings) {
            tracing::info!(user = %record.username, "user is already connected more times than max-same-clients allows");
            return Err(cookie(false));
        }
        let Some(connection) = self.connections.get_mut(&conn) else {
            return Err(cookie(true));
        };
        let Some(opening) = &mut connection.opening else {
            return Err(cookie(true));
        };
        let vhost = self.config.vhosts.get(record.vhost as usize);
        let Some(vhost) = vhost.filter(|_| opening.request.vhost == record.vhost) else {
            tracing::info!(user = %record.username, "the cookie belongs to another virtual host");
            return Err(cookie(true));
        };
        let mut search = opening::search(&record.username, vhost.predictable_ips);
        let leases = &mut self.leases;
        let addresses = opening::take_addresses(
            leases,
            &record.name,
            &settings,
            &opening.request,
            &mut search,
        )
        .map_err(|error| {
            leases.release(&record.name);
            tracing::error!(user = %record.username, "no address for this session: {error}");
            (TunnelRefused::NoAddress, true)
        })?;
        let dataplane = self.dataplane.as_ref();
        let kernel = self.kernel.as_mut();
        let Some(slot) = take_slot(&mut self.slots, &mut self.shared, kernel, dataplane) else {
            self.leases.release(&record.name);
            return Err((TunnelRefused::Internal, true));
        };
        let shared = &self.shared[slot];
        shared.reset();
        shared.last_data_secs.set(Self::monotonic_secs());
        let ticket = &connection.ticket;
        let switch = vhost.switch_to_tcp_timeout;
        let mut tunnel = opening::tunnel(
            slot,
            ticket,
            record,
            settings,
            &opening.request,
            addresses,
            switch,
        );
        if self.udp_port == 0 {
            tunnel.params.app_id = None;
        }
        connection.username.clone_from(&tunnel.username);
        tracing::info!(user = %tunnel.username, remote = %ticket.remote, "new user session");
        opening.tunnel = Some(Box::new(tunnel));
        opening.search = Some(search);
        self.spawn_set_up(conn);
        Ok(())
    }

    /// Starts the task that probes addresses and runs the connect script.
    fn spawn_set_up(&mut self, conn: ConnId) {
        let opening = self.connections.get(&conn).and_then(|c| c.opening.as_ref());
        let Some(tunnel) = opening.and_then(|opening| opening.tunnel.as_ref()) else {
            return;
        };
        let iroutes = tunnel.settings.iroute.clone();
        let new_iroutes = self.use_iroutes(&iroutes);
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        let Some(opening) = &connection.opening else {
            return;
        };
        let Some(tunnel) = &opening.tunnel else {
            return;
        };
        let probe = self.config.ping_leases;
        let single = |address: &IpAddr| {
            // An IPv6 subnet has no one address that would answer for it (behaviour.md 6.6).
            address.is_ipv4() || tunnel.ipv6.is_some_and(|(_, prefix)| prefix == 128)
        };
        let task = opening::Task {
            config: self.config.clone(),
            network: self.network.clone(),
            device: self.device.clone(),
            context: self.script_context(tunnel, &connection.ticket, None),
            iroutes: new_iroutes,
            probe: if probe {
                tunnel.addresses().filter(single).collect()
            } else {
                Vec::new()
            },
            previous: self.ends_before(&tunnel.name, &iroutes),
        };
        let undo = Undo {
            name: tunnel.name.clone(),
            iroutes,
            context: task.context.clone(),
        };
        let (events, step) = (self.events.clone(), opening.step);
        tokio::spawn(async move {
            let result = task.run().await;
            let _ = events
                .send(Event::Opened(conn, step, result, Box::new(undo)))
                .await;
        });
    }

    /// An address answered the probe: another one, or none.
    fn try_other_address(&mut self, conn: ConnId, taken: IpAddr) -> Result<(), TunnelRefused> {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return Ok(());
        };
        let Some(opening) = &mut connection.opening else {
            return Ok(());
        };
        let (Some(tunnel), Some(search)) = (&mut opening.tunnel, &mut opening.search) else {
            return Err(TunnelRefused::Internal);
        };
        opening.probes += 1;
        if opening.probes >= MAX_PROBES {
            return Err(TunnelRefused::NoAddress);
        }
        match taken {
            IpAddr::V4(_) => self.leases.reject_ipv4(&tunnel.name, search),
            IpAddr::V6(_) => self.leases.reject_ipv6(&tunnel.name, search),
        }
        let addresses = opening::take_addresses(
            &mut self.leases,
            &tunnel.name,
            &tunnel.settings,
            &opening.request,
            search,
        )
        .map_err(|_| TunnelRefused::NoAddress)?;
        tunnel.set_addresses(&addresses);
        self.spawn_set_up(conn);
        Ok(())
    }

    fn too_many_of(&self, username: &str, vhost: u32, settings: &UserConfig) -> bool {
        let limit = settings.max_same_clients as usize;
        let same = |tunnel: &Tunnel| tunnel.username == username && tunnel.vhost == vhost;
        let open = self
            .connections
            .values()
            .filter(|c| c.any_tunnel().is_some_and(same));
        limit != 0 && open.count() >= limit
    }

    /// The set-up task of a tunnel has ended.
    pub async fn on_opened(&mut self, conn: ConnId, step: u64, result: OpenResult, undo: Undo) {
        let opening = self.connections.get(&conn).and_then(|c| c.opening.as_ref());
        if opening.is_none_or(|opening| opening.step != step) {
            // The client left meanwhile, or came back by another connection.
            match result {
                Ok(()) => self.close_in_background(undo.name, undo.iroutes, undo.context),
                Err(_) => drop(self.release_iroutes(&undo.iroutes)),
            }
            return;
        }
        if result.is_err() {
            self.release_iroutes(&undo.iroutes);
        }
        let refused = match result {
            Ok(()) => None,
            Err(SetUpFailed::Refused(why)) => Some(why),
            Err(SetUpFailed::AddressAnswers(taken)) => match self.try_other_address(conn, taken) {
                Ok(()) => return,
                Err(why) => Some(why),
            },
        };
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let Some(tunnel) = connection.opening.take().and_then(|opening| opening.tunnel) else {
            return;
        };
        if let Some(why) = refused {
            tracing::info!(user = %tunnel.username, "the session was refused by its set-up");
            self.forget_tunnel(&tunnel, false);
            let name = tunnel.name;
            self.tell_secmod(ToSecmod::CloseSession {
                name,
                conn,
                keep_cookie: false,
            });
            self.refuse_tunnel(conn, why);
            return;
        }
        self.tunnel_opened(conn, *tunnel).await;
    }

    async fn tunnel_opened(&mut self, conn: ConnId, mut tunnel: Tunnel) {
        self.last_order += 1;
        tunnel.order = self.last_order;
        for (address, prefix) in tunnel.host_routes() {
            if let Err(error) = self.network.add_route(address, prefix).await {
                tracing::error!(user = %tunnel.username, "{error:#}");
            }
        }
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let remote = connection.ticket.remote;
        let tunnel = connection.tunnel.insert(tunnel);
        tracing::info!(user = %tunnel.username, remote = %remote, "user logged in");
        let Some(tunnel) = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref()) else {
            return;
        };
        self.tell_dataplane(ToDataplane::SessionAdded(Box::new(tunnel.params.clone())));
        self.open_in_kernel(conn);
        let Some(tunnel) = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref()) else {
            return;
        };
        let grant = self.grant(tunnel);
        if self.config.use_utmp {
            opening::record_use(&self.device, tunnel, remote.ip(), true);
        }
        self.tell_gate(
            conn,
            ToGate::Tunnel {
                conn,
                result: Ok(Box::new(grant)),
            },
        );
        self.publish(conn, None);
    }

    fn grant(&self, tunnel: &Tunnel) -> TunnelGrant {
        TunnelGrant {
            slot: tunnel.slot,
            name: tunnel.name.clone(),
            username: tunnel.username.clone(),
            groupname: tunnel.groupname.clone(),
            ipv4: tunnel.ipv4.zip(tunnel.ipv4_pool.map(|(_, mask)| mask)),
            ipv6: tunnel.ipv6,
            settings: tunnel.settings.clone(),
            extra_routes: self.exposed_iroutes(tunnel),
            app_id: tunnel.params.app_id.unwrap_or_default(),
            tun_mtu: super::network::DEFAULT_MTU,
            authenticated: tunnel.authenticated,
            hostname: tunnel.hostname.clone(),
            server_ips: tunnel
                .ipv4_pool
                .map(|(local, _)| IpAddr::V4(local))
                .into_iter()
                .chain(tunnel.ipv6_local.map(IpAddr::V6))
                .collect(),
        }
    }

    async fn on_tunnel_up(&mut self, conn: ConnId, mtu: u16, tls_cipher: String) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let ticket = connection.ticket.clone();
        let gate = connection.gate;
        let Some(tunnel) = connection.tunnel.as_mut() else {
            return;
        };
        if !tunnel.tls_cipher.is_empty() {
            self.kill_gate(gate, "says twice that a tunnel is up");
            return;
        }
        // The number comes from a gate: it may not widen what the supervisor granted.
        tunnel.mtu = mtu.clamp(576, super::network::DEFAULT_MTU.max(tunnel.settings.mtu));
        tunnel.params.mtu = tunnel.mtu;
        tunnel.tls_cipher = printable(&tls_cipher);
        let (slot, mtu) = (tunnel.slot, tunnel.mtu);
        if let Some(kernel) = &mut self.kernel {
            kernel.set_mtu(slot.0, mtu);
        }
        self.tell_dataplane(ToDataplane::MtuChanged { slot, mtu });
        self.stats.mtu_negotiated(mtu);
        self.fit_device_mtu().await;
        let Some(tunnel) = self.connections.get(&conn).and_then(|c| c.tunnel.as_ref()) else {
            return;
        };
        if tunnel.hostname.is_some() {
            let context = self.script_context(tunnel, &ticket, None);
            let config = self.config.clone();
            tokio::spawn(async move {
                if let Err(error) = scripts::run_hook(&config, Hook::HostUpdate, &context).await {
                    tracing::warn!("{error}");
                }
            });
        }
    }

    pub(super) async fn fit_device_mtu(&mut self) {
        let open = self.connections.values().filter_map(|c| c.tunnel.as_ref());
        // As agreed on: what a narrow path takes is its session's own affair.
        let widest = open.filter(|t| t.mtu > 0).map(|t| t.params.mtu).max();
        self.network
            .set_mtu(widest.unwrap_or(super::network::DEFAULT_MTU))
            .await;
    }
}
