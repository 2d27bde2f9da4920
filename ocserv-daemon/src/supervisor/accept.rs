//! From accept(2) to a gate.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ocserv_common::kernel::MAX_SLOTS;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::state::{Connection, Stage};
use super::{Event, Supervisor};
use crate::ipc::gate::ToGate;
use crate::ipc::ids::{ConnId, ConnTicket};
use crate::ipc::ticket;

/// Pause after accept(2) failed (out of descriptors, say), so that it does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(200);
/// `max-clients = 0`.
const DEFAULT_MAX_CLIENTS: usize = 8192;
/// Pause before each connection at nine tenths of `max-clients` and above.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Connections in authentication above which `rate-limit-ms` holds.
const BUSY: usize = 128;

/// Accepts for ever. The event queue is bounded, so a busy supervisor slows this down and the
/// kernel's backlog holds the rest.
pub async fn accept_loop(
    listener: TcpListener,
    events: mpsc::Sender<Event>,
    pause: Arc<AtomicU64>,
) {
    loop {
        let millis = pause.load(Ordering::Relaxed);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("accept: {error}");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        if events.send(Event::Accepted(stream)).await.is_err() {
            return;
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Supervisor {
    /// Checks limits and bans, then hands the connection to a gate.
    pub fn on_accepted(&mut self, stream: std::net::TcpStream) {
        let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        let (remote, local) = (canonical(remote), canonical(local));
        if !self.accepting || !self.admits(remote, local) {
            return;
        }
        let Some(gate) = self.choose_gate() else {
            tracing::error!(remote = %remote, "no gate to serve this connection");
            return;
        };
        let conn = self.new_conn_id();
        let mut ticket = ConnTicket {
            conn,
            gate,
            remote,
            local,
            accepted_at: SystemTime::now(),
            mac: Default::default(),
        };
        ticket::sign(&mut ticket, &self.ticket_key);
        let Some(entry) = self.gates.all.get_mut(&gate) else {
            return;
        };
        entry.connections.insert(conn);
        entry.peer.send(
            ToGate::Connection {
                ticket: ticket.clone(),
            },
            vec![OwnedFd::from(stream)],
        );
        let connection = Connection {
            ticket,
            gate,
            since: SystemTime::now(),
            username: String::new(),
            stage: Stage::PreAuth,
            asked: false,
            opening: None,
            tunnel: None,
            ending: None,
        };
        self.connections.insert(conn, connection);
    }

    fn admits(&mut self, remote: SocketAddr, local: SocketAddr) -> bool {
        if self.bans.is_banned(remote.ip(), Instant::now()) {
            tracing::info!(remote = %remote, "rejected connection from banned IP");
            return false;
        }
        if self.connections.len() >= self.client_limit() {
            tracing::info!(
                "reached maximum client limit (active: {})",
                self.connections.len()
            );
            return false;
        }
        self.add_ban_points(remote.ip(), local.ip(), self.config.ban_points_connection);
        true
    }

    /// Every second: how long accepting pauses before each connection, because of `rate-limit-ms`
    /// while many log in, or because `max-clients` is (nearly) reached.
    pub(super) fn set_accept_pause(&self) {
        let open = self.connections.len();
        let waiting = self
            .connections
            .values()
            .filter(|c| c.tunnel.is_none())
            .count();
        let full = open >= self.client_limit() * 9 / 10;
        let slow = self.config.rate_limit_ms.filter(|_| waiting > BUSY);
        let pause = if full {
            FULL_PAUSE
        } else {
            slow.unwrap_or_default()
        };
        self.accept_pause
            .store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn client_limit(&self) -> usize {
        match self.config.max_clients {
            0 => DEFAULT_MAX_CLIENTS,
            limit => limit.min(MAX_SLOTS) as usize,
        }
    }

    fn new_conn_id(&mut self) -> ConnId {
        loop {
            self.next_conn = self.next_conn.wrapping_add(1).max(1);
            if !self.connections.contains_key(&ConnId(self.next_conn)) {
                return ConnId(self.next_conn);
            }
        }
    }
}

/// A listener for the runtime.
///
/// # Errors
/// When the runtime cannot watch it.
pub fn listener(socket: &std::net::TcpListener) -> std::io::Result<TcpListener> {
    let clone = socket.as_fd().try_clone_to_owned()?;
    TcpListener::from_std(std::net::TcpListener::from(clone))
}
