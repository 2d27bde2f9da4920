//! What occtl is told, and what it may order.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ocserv_proto::config::Route;
use ocserv_proto::control::{Request, Response, SessionInfo, StatusInfo, UserInfo, UserState};

use super::control::ControlCall;
use super::state::{Connection, Stage, Tunnel};
use super::{Event, Supervisor, hooks};
use crate::ipc::gate::EndReason;
use crate::ipc::ids::{ConnId, SessionName};
use crate::ipc::secmod::{SessionRecord, SessionState, ToSecmod};

/// Shortest piece of a session's name that `terminate session` takes.
const MIN_NAME_PREFIX: usize = 3;

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn secs(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
}

impl Supervisor {
    /// Answers one request of occtl.
    pub(super) async fn on_control(&mut self, call: ControlCall) {
        let ControlCall { request, answer } = call;
        if matches!(request, Request::Events) {
            let users = self.users(|_| true);
            self.feed.subscribe(answer, users);
            return;
        }
        let response = self.answer(request).await;
        // A client that left needs no answer.
        let _ = answer.try_send(response);
    }

    async fn answer(&mut self, request: Request) -> Response {
        let done = |did: bool, failed: &str| {
            if did {
                Response::Done
            } else {
                Response::Failed(failed.to_owned())
            }
        };
        match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Datapath => Response::Datapath(Box::new(self.datapath_info())),
            Request::Users | Request::Events => Response::Users(self.users(|_| true)),
            Request::User(name) => Response::Users(self.users(|c| c.username == name)),
            Request::Id(id) => Response::Users(self.users(|c| c.ticket.conn == ConnId(id))),
            Request::SessionsAll => Response::Sessions(self.sessions(|_| true)),
            Request::SessionsValid => {
                Response::Sessions(self.sessions(|r| r.state == SessionState::Authenticated))
            }
            Request::Session(name) => {
                Response::Sessions(self.sessions(|r| r.name.0.starts_with(&name)))
            }
            Request::IpBans => {
                Response::Bans(self.bans.list(true, Instant::now(), SystemTime::now()))
            }
            Request::IpBanPoints => {
                Response::Bans(self.bans.list(false, Instant::now(), SystemTime::now()))
            }
            Request::Iroutes => Response::Users(self.users(|c| {
                c.tunnel
                    .as_ref()
                    .is_some_and(|tunnel| !tunnel.settings.iroute.is_empty())
            })),
            Request::DisconnectUser(name) | Request::TerminateUser(name) => {
                let mut any = self.disconnect_where(|c| c.tunnel.is_some() && c.username == name);
                any |= self.invalidate_where(|record| record.username == name);
                done(any, "no such user")
            }
            Request::DisconnectId(id) | Request::TerminateId(id) => done(
                self.disconnect_where(|c| c.ticket.conn == ConnId(id)),
                "no such ID",
            ),
            Request::TerminateSession(name) => self.terminate_session(&name),
            Request::UnbanIp(ip) => done(self.bans.unban(ip, Instant::now()), "not banned"),
            Request::Reload => {
                let _ = self.events.try_send(Event::Reload);
                Response::Done
            }
            Request::Stop => {
                let _ = self.events.try_send(Event::Stop);
                Response::Done
            }
        }
    }

    fn disconnect_where(&mut self, which: impl Fn(&Connection) -> bool) -> bool {
        let chosen: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, c)| which(c))
            .map(|(id, _)| *id)
            .collect();
        for conn in &chosen {
            self.disconnect(*conn, EndReason::ServerDisconnect);
        }
        !chosen.is_empty()
    }

    /// Drops cookies that have no open tunnel; those with one go with their tunnel.
    fn invalidate_where(&mut self, which: impl Fn(&SessionRecord) -> bool) -> bool {
        let chosen: Vec<SessionName> = self
            .records
            .values()
            .filter(|record| !record.in_use && which(record))
            .map(|record| record.name.clone())
            .collect();
        for name in &chosen {
            self.tell_secmod(ToSecmod::InvalidateSession { name: name.clone() });
        }
        !chosen.is_empty()
    }

    fn terminate_session(&mut self, prefix: &str) -> Response {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        if prefix.len() < MIN_NAME_PREFIX || !prefix.chars().all(is_name) {
            return Response::Failed(format!("invalid session ID '{prefix}'"));
        }
        let found = self.sessions(|record| record.name.0.starts_with(prefix));
        let [only] = found.as_slice() else {
            return Response::Sessions(found);
        };
        self.tell_secmod(ToSecmod::InvalidateSession {
            name: SessionName(only.session.clone()),
        });
        Response::Terminated {
            session: only.session.clone(),
            username: only.username.clone(),
            in_use: only.in_use,
        }
    }

    fn status(&self) -> StatusInfo {
        let (min_mtu, max_mtu) = self.stats.mtu_range();
        StatusInfo {
            server_pid: std::process::id(),
            secmod_pids: self.secmod.iter().map(super::peers::Peer::pid).collect(),
            up_since: unix(self.started),
            active_sessions: self.open_tunnels().count() as u64,
            total_sessions: self.stats.total_sessions(),
            total_auth_failures: self.stats.total_auth_failures(),
            banned_ips: self.bans.banned_count(Instant::now()),
            secmod_client_entries: self.records.len() as u64,
            tls_db_entries: 0,
            median_latency_ms: 0,
            stdev_latency_ms: 0,
            period: self.stats.period(),
            min_mtu,
            max_mtu,
        }
    }

    /// Tunnels that are open.
    pub(super) fn open_tunnels(&self) -> impl Iterator<Item = &Tunnel> {
        self.connections.values().filter_map(|c| c.tunnel.as_ref())
    }

    fn users(&self, which: impl Fn(&Connection) -> bool) -> Vec<UserInfo> {
        let mut chosen: Vec<&Connection> = self.connections.values().filter(|c| which(c)).collect();
        chosen.sort_by_key(|connection| connection.since);
        chosen
            .into_iter()
            .map(|connection| self.describe(connection))
            .collect()
    }

    /// A connection as `show user` prints it.
    pub(super) fn user_info(&self, conn: ConnId) -> Option<UserInfo> {
        self.connections
            .get(&conn)
            .map(|connection| self.describe(connection))
    }

    fn describe(&self, connection: &Connection) -> UserInfo {
        let ticket = &connection.ticket;
        let mut info = UserInfo {
            id: ticket.conn.0,
            username: connection.username.clone(),
            state: match (connection.tunnel.is_some(), connection.stage) {
                (true, _) => UserState::Connected,
                (false, Stage::PreAuth) => UserState::PreAuth,
                (false, Stage::AuthFailed) => UserState::AuthFailed,
                (false, Stage::Authenticated) => UserState::Authenticating,
            },
            vhost: "default".to_owned(),
            remote_ip: Some(ticket.remote.ip()),
            local_device_ip: Some(ticket.local.ip()),
            connected_at: unix(connection.since),
            session_started_at: unix(connection.since),
            ..UserInfo::default()
        };
        if let Some(tunnel) = &connection.tunnel {
            self.describe_tunnel(tunnel, &mut info);
        }
        info
    }

    fn describe_tunnel(&self, tunnel: &Tunnel, info: &mut UserInfo) {
        let settings = &tunnel.settings;
        let shared = &self.shared[tunnel.slot];
        let texts = |routes: &[Route]| routes.iter().map(ToString::to_string).collect();
        let addresses = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect();
        info.username.clone_from(&tunnel.username);
        info.groupname.clone_from(&tunnel.groupname);
        info.vhost = self.vhost_name(tunnel.vhost);
        info.device.clone_from(&self.device);
        info.mtu = (tunnel.mtu != 0).then_some(tunnel.mtu);
        info.ipv4 = tunnel.ipv4.zip(tunnel.ipv4_pool.map(|(local, _)| local));
        info.ipv6 = tunnel
            .ipv6
            .map(|(address, _)| address)
            .zip(tunnel.ipv6_local);
        info.user_agent.clone_from(&tunnel.user_agent);
        info.limit_rx = settings.rx_data_per_sec;
        info.limit_tx = settings.tx_data_per_sec;
        info.traffic = Some((shared.rx_bytes.get(), shared.tx_bytes.get()));
        info.dpd = Tunnel::dpd_secs(settings, tunnel.mobile);
        info.keepalive = secs(settings.keepalive);
        info.hostname = tunnel.hostname.clone().unwrap_or_default();
        info.connected_at = unix(tunnel.connected);
        info.session_started_at = unix(tunnel.authenticated);
        info.session.clone_from(&tunnel.name.0);
        info.tls_cipher.clone_from(&tunnel.tls_cipher);
        info.dtls_cipher.clone_from(&tunnel.dtls_cipher);
        info.dns = addresses(&settings.dns);
        info.nbns = addresses(&settings.nbns);
        info.split_dns.clone_from(&settings.split_dns);
        info.routes = texts(&settings.route);
        info.no_routes = texts(&settings.no_route);
        info.iroutes = texts(&settings.iroute);
        info.restrict_to_routes = settings.restrict_user_to_routes;
        info.restrict_to_ports = settings
            .restrict_user_to_ports
            .as_ref()
            .map(hooks::port_list)
            .unwrap_or_default();
    }

    fn sessions(&self, which: impl Fn(&SessionRecord) -> bool) -> Vec<SessionInfo> {
        let mut chosen: Vec<&SessionRecord> = self.records.values().filter(|r| which(r)).collect();
        chosen.sort_by_key(|record| record.created);
        let describe = |record: &SessionRecord| SessionInfo {
            session: record.name.0.clone(),
            created: unix(record.created),
            expires: record.expires.map(unix),
            authenticated: record.state == SessionState::Authenticated,
            username: record.username.clone(),
            groupname: record.groupname.clone(),
            vhost: self.vhost_name(record.vhost),
            user_agent: record.user_agent.clone(),
            remote_ip: record.remote,
            activated: record.activated,
            in_use: record.in_use,
            certificate_auth: false,
        };
        chosen.into_iter().map(describe).collect()
    }

    /// Tells the listener of `show events`, if there is one.
    pub(super) fn publish(&mut self, conn: ConnId, end: Option<(EndReason, Duration)>) {
        if !self.feed.has_listener() {
            return;
        }
        let Some(user) = self.user_info(conn) else {
            return;
        };
        match end {
            None => self.feed.connected(user),
            Some((reason, lasted)) => self.feed.disconnected(user, reason, lasted),
        }
    }

    /// iroutes of all other users (`expose-iroutes`).
    pub(super) fn exposed_iroutes(&self, tunnel: &Tunnel) -> Vec<Route> {
        let index = tunnel.vhost as usize;
        let exposes = self
            .config
            .vhosts
            .get(index)
            .is_some_and(|vhost| vhost.expose_iroutes);
        let Some(files) = self.files.get(index).filter(|_| exposes) else {
            return Vec::new();
        };
        let others = files
            .iroutes
            .iter()
            .filter(|(user, _)| *user != tunnel.username);
        others
            .flat_map(|(_, routes)| routes.iter().copied())
            .collect()
    }
}
