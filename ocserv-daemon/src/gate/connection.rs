//! One connection from accept to close.

use std::cell::Cell;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ocserv_proto::connect::Refusal;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::Gate;
use super::login::{self, LoginEnd};
use super::opening::{self, Opened};
use super::settings::Settings;
use super::tls::{AcceptError, AcceptedTls, TlsSession, accept, read_some};
use super::tunnel::Tunnel;
use crate::ipc::gate::{EndReason, FromGate, TunnelGrant, TunnelRefused};
use crate::ipc::ids::{ConnId, ConnTicket};

/// Messages from the supervisor that a connection may not have read yet.
pub const MAX_EVENTS: usize = 8;
/// Longest wait for a client to take the last bytes, and to close.
const LINGER: Duration = Duration::from_secs(2);
/// Longest time for TLS itself (protocol.md 1.8).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(40);

/// What the supervisor says about one connection.
#[derive(Debug)]
pub enum Event {
    /// Answer to `OpenTunnel`.
    Tunnel(Result<Box<TunnelGrant>, TunnelRefused>),
    /// The dataplane has the keys.
    KeysInstalled,
    /// End.
    Disconnect(EndReason),
}

/// Says `Closed` whatever way the connection ends, a panic of its task included.
struct Registration {
    gate: Rc<Gate>,
    conn: ConnId,
    reason: Cell<EndReason>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.gate.forget(self.conn);
        let reason = self.reason.get();
        self.gate.outbox.push(FromGate::Closed {
            conn: self.conn,
            reason,
        });
    }
}

/// Serves one connection.
pub async fn serve(
    gate: Rc<Gate>,
    settings: Arc<Settings>,
    tcp: TcpStream,
    ticket: ConnTicket,
    mut events: mpsc::Receiver<Event>,
) {
    let conn = ticket.conn;
    let registration = Registration {
        gate: Rc::clone(&gate),
        conn,
        reason: Cell::new(EndReason::Error),
    };
    // Nagle would hold small packets back (protocol.md 1.10).
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(conn = conn.0, %error, "TCP_NODELAY");
    }
    // Boxed, so that an idle tunnel does not carry the room of the login.
    let before = Box::pin(before_tunnel(&gate, &settings, tcp, &ticket, &mut events));
    let reason = match before.await {
        Ok(opened) => run_tunnel(&gate, begin_tunnel(&gate, opened), &mut events).await,
        Err(reason) => reason,
    };
    registration.reason.set(reason);
}

/// Not part of the task's future, which would keep room for all that moves here.
fn begin_tunnel(gate: &Rc<Gate>, opened: Box<Opened>) -> Rc<Tunnel> {
    let Opened {
        conn,
        slot,
        mtu,
        start,
    } = *opened;
    let tunnel = Rc::new(Tunnel::new(Rc::clone(gate), conn, slot, start));
    gate.tunnels.borrow_mut().insert(slot, Rc::clone(&tunnel));
    gate.outbox.push(FromGate::TunnelUp {
        conn,
        mtu,
        tls_cipher: tunnel.tls_description(),
    });
    tunnel
}

async fn run_tunnel(
    gate: &Gate,
    tunnel: Rc<Tunnel>,
    events: &mut mpsc::Receiver<Event>,
) -> EndReason {
    let reason = tunnel.run(events).await;
    let mut tunnels = gate.tunnels.borrow_mut();
    if tunnels
        .get(&tunnel.slot())
        .is_some_and(|own| Rc::ptr_eq(own, &tunnel))
    {
        tunnels.remove(&tunnel.slot());
    }
    reason
}

/// TLS, login and CONNECT; all of it within `auth-timeout`, but for the supervisor's answer to
/// CONNECT, which may wait for a script.
async fn before_tunnel(
    gate: &Rc<Gate>,
    settings: &Arc<Settings>,
    tcp: TcpStream,
    ticket: &ConnTicket,
    events: &mut mpsc::Receiver<Event>,
) -> Result<Box<Opened>, EndReason> {
    let deadline = Instant::now() + settings.auth_timeout;
    let (mut tls, end) = tokio::select! {
        done = timeout_at(deadline, log_in(gate, settings, tcp, ticket)) => match done {
            Ok(result) => result?,
            Err(_) => {
                tracing::info!(conn = ticket.conn.0, remote = %ticket.remote, "auth-timeout");
                return Err(EndReason::Error);
            }
        },
        reason = disconnected(events) => return Err(reason),
    };
    let client = match end {
        LoginEnd::Connect(client) => client,
        LoginEnd::Close(reason) => {
            hang_up(&tls.tcp, &mut tls.session).await;
            return Err(reason);
        }
    };
    let vhost = settings.by_index(tls.vhost);
    match opening::open(gate, ticket, &client, &mut tls, events).await {
        Ok(grant) => {
            let opened = opening::answer(settings, vhost, ticket, tls, &client, *grant).await;
            opened.map(Box::new)
        }
        Err(end) => {
            if let Some(refusal) = end.refusal {
                say_no(&mut tls, refusal).await;
            }
            Err(end.reason)
        }
    }
}

async fn log_in(
    gate: &Rc<Gate>,
    settings: &Arc<Settings>,
    tcp: TcpStream,
    ticket: &ConnTicket,
) -> Result<(AcceptedTls, LoginEnd), EndReason> {
    let remote = ticket.remote.ip().to_canonical();
    let choose = |name: Option<&str>| &settings.by_name(name).tls;
    let handshake = accept(tcp, remote, choose, &gate.signing);
    let mut tls = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(AcceptError::HealthProbe)) => {
            tracing::debug!(conn = ticket.conn.0, remote = %ticket.remote, "health probe");
            return Err(EndReason::HealthProbe);
        }
        Ok(Err(error)) => {
            tracing::info!(conn = ticket.conn.0, remote = %ticket.remote, %error, "TLS handshake");
            return Err(EndReason::Unspecified);
        }
        Err(_) => {
            tracing::info!(conn = ticket.conn.0, remote = %ticket.remote, "TLS handshake timed out");
            return Err(EndReason::Unspecified);
        }
    };
    let vhost = settings.by_index(tls.vhost);
    let end = login::run(gate, vhost, ticket, &mut tls).await;
    Ok((tls, end))
}

/// Waits for a `Disconnect`; nothing else can come before CONNECT.
async fn disconnected(events: &mut mpsc::Receiver<Event>) -> EndReason {
    loop {
        match events.recv().await {
            Some(Event::Disconnect(reason)) => return reason,
            Some(_) => {}
            None => return EndReason::ServerDisconnect,
        }
    }
}

async fn say_no(tls: &mut AcceptedTls, refusal: Refusal) {
    if tls.session.queue(refusal.answer()).is_ok() {
        hang_up(&tls.tcp, &mut tls.session).await;
    }
}

/// Sends what is queued and `close_notify`, then waits a little for the client to close: a reset
/// would take the last bytes away from it.
pub async fn hang_up(tcp: &TcpStream, session: &mut TlsSession) {
    session.queue_close();
    let farewell = async {
        session.flush(tcp).await?;
        SockRef::from(tcp).shutdown(std::net::Shutdown::Write)?;
        let mut ignored = [0; 2048];
        while read_some(tcp, &mut ignored).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever it says, the connection is over.
    let _ = timeout(LINGER, farewell).await;
}

/// True for a client that came over IPv6 itself, not over IPv4 on a dual socket.
pub fn is_outer_ipv6(ticket: &ConnTicket) -> bool {
    match ticket.remote.ip() {
        std::net::IpAddr::V4(_) => false,
        std::net::IpAddr::V6(address) => Ipv6Addr::to_ipv4_mapped(&address).is_none(),
    }
}
