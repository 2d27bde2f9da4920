//! The supervisor's messages: what the gate starts with, and what comes later.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ocserv_sys::message_batch::MessageBatch;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::connection::{Event, MAX_EVENTS, serve};
use super::dtls::{DtlsContext, Flow};
use super::link::Link;
use super::settings::Settings;
use super::tls::SignPool;
use super::tunnel::Tunnel;
use super::{Gate, SCRATCH};
use crate::ipc::channel::{Channel, SyncChannel, read_memfd};
use crate::ipc::gate::{EndReason, FromGate, GateSetup, ToGate};
use crate::ipc::ids::{ConnId, ConnTicket, Slot};
use crate::ipc::packet::{Frame, MAX_FRAME};

/// Longest wait for each message of the start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages of the dataplane that are taken at once.
const LINK_BATCH: usize = 64;
/// Longest wait for the farewells after `Stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the gate needs before it can take a connection.
pub struct Start {
    /// Prepared configuration.
    settings: Arc<Settings>,
    /// Signing channels.
    pub signing: Arc<SignPool>,
    questions: OwnedFd,
    link: OwnedFd,
}

/// Waits for configuration, secmod and dataplane, in any order.
///
/// # Errors
/// When something else comes, or nothing.
pub fn receive_start(supervisor: &OwnedFd) -> anyhow::Result<Start> {
    let channel = SyncChannel::new(supervisor.try_clone()?);
    let signing = Arc::new(SignPool::default());
    let (mut settings, mut questions, mut link) = (None, None, None);
    loop {
        if let (Some(_), Some(_), Some(_)) = (&settings, &questions, &link) {
            break;
        }
        let (message, fds) = channel
            .recv::<ToGate>(START_TIMEOUT)?
            .context("the supervisor closed the channel")?;
        match message {
            ToGate::Configure => settings = Some(configure(fds, &signing)?),
            ToGate::Secmod => questions = Some(take_secmod(fds, &signing)?),
            ToGate::Dataplane => link = fds.into_iter().next(),
            other => bail!("unexpected message at start: {other:?}"),
        }
    }
    let (Some(settings), Some(questions), Some(link)) = (settings, questions, link) else {
        bail!("incomplete start");
    };
    Ok(Start {
        settings,
        signing,
        questions,
        link,
    })
}

fn configure(fds: Vec<OwnedFd>, signing: &Arc<SignPool>) -> anyhow::Result<Arc<Settings>> {
    let memfd = fds
        .into_iter()
        .next()
        .context("Configure without a descriptor")?;
    let setup: GateSetup = read_memfd(memfd).context("configuration")?;
    Ok(Arc::new(Settings::new(setup, signing)?))
}

/// Installs the signing channels; gives the question channel.
fn take_secmod(fds: Vec<OwnedFd>, signing: &SignPool) -> anyhow::Result<OwnedFd> {
    let mut fds = fds.into_iter();
    let questions = fds.next().context("Secmod without a descriptor")?;
    signing.replace(fds.collect());
    Ok(questions)
}

/// Serves until the supervisor closes the channel.
///
/// # Errors
/// When the channel breaks.
pub async fn run(supervisor: OwnedFd, start: Start) -> anyhow::Result<()> {
    let channel = Rc::new(Channel::new(supervisor)?);
    let gate = Rc::new(Gate {
        started: Instant::now(),
        outbox: Default::default(),
        questions: Default::default(),
        signing: start.signing,
        dtls: DtlsContext::new()?,
        settings: RefCell::new(start.settings),
        link: RefCell::default(),
        connections: RefCell::default(),
        tunnels: RefCell::default(),
        scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
        packets: RefCell::default(),
    });
    set_secmod(&gate, start.questions)?;
    set_link(&gate, start.link)?;
    gate.outbox.push(FromGate::Ready);
    ocserv_sys::memory::give_back();
    let sender = gate.outbox.run(&channel);
    tokio::select! {
        result = sender => Ok(result?),
        result = receive(&gate, &channel) => result,
    }
}

async fn receive(gate: &Rc<Gate>, channel: &Channel) -> anyhow::Result<()> {
    while let Some((message, fds)) = channel.recv::<ToGate>().await? {
        match message {
            ToGate::Configure => match configure(fds, &gate.signing) {
                Ok(settings) => *gate.settings.borrow_mut() = settings,
                Err(error) => tracing::error!(%error, "new configuration not taken"),
            },
            ToGate::Secmod => set_secmod(gate, take_secmod(fds, &gate.signing)?)?,
            ToGate::Dataplane => {
                let link = fds
                    .into_iter()
                    .next()
                    .context("Dataplane without a descriptor")?;
                set_link(gate, link)?;
            }
            ToGate::Connection { ticket } => {
                let tcp = fds
                    .into_iter()
                    .next()
                    .context("Connection without a descriptor")?;
                take_connection(gate, ticket, tcp);
            }
            ToGate::Tunnel { conn, result } => tell(gate, conn, Event::Tunnel(result)),
            ToGate::KeysInstalled { conn } => tell(gate, conn, Event::KeysInstalled),
            ToGate::Disconnect { conn, reason } => tell(gate, conn, Event::Disconnect(reason)),
            ToGate::Stop => {
                stop(gate).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn take_connection(gate: &Rc<Gate>, ticket: ConnTicket, tcp: OwnedFd) {
    let conn = ticket.conn;
    let settings = Arc::clone(&gate.settings.borrow());
    let full = gate.connections.borrow().len() >= settings.max_connections;
    let tcp = std::net::TcpStream::from(tcp);
    let tcp = tcp
        .set_nonblocking(true)
        .and_then(|()| TcpStream::from_std(tcp));
    match tcp {
        Ok(tcp) if !full => {
            let (sender, events) = mpsc::channel(MAX_EVENTS);
            gate.connections.borrow_mut().insert(conn, sender);
            spawn_local(serve(Rc::clone(gate), settings, tcp, ticket, events));
        }
        refused => {
            if let Err(error) = refused {
                tracing::warn!(conn = conn.0, %error, "accepted socket");
            }
            gate.outbox.push(FromGate::Closed {
                conn,
                reason: EndReason::Error,
            });
        }
    }
}

/// Hands an event over. A connection that has not read the last ones is beyond help.
fn tell(gate: &Gate, conn: ConnId, event: Event) {
    let mut connections = gate.connections.borrow_mut();
    let full = match connections.get(&conn) {
        Some(sender) => matches!(
            sender.try_send(event),
            Err(mpsc::error::TrySendError::Full(_))
        ),
        None => false,
    };
    if full {
        connections.remove(&conn);
    }
}

/// Ends all connections with DISCONNECT.
async fn stop(gate: &Gate) {
    let open: Vec<ConnId> = gate.connections.borrow().keys().copied().collect();
    for conn in open {
        tell(gate, conn, Event::Disconnect(EndReason::ServerDisconnect));
    }
    let farewells = async {
        while !gate.connections.borrow().is_empty() || !gate.outbox.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(STOP_TIMEOUT, farewells).await.is_err() {
        tracing::info!(
            open = gate.connections.borrow().len(),
            "connections left at stop"
        );
    }
}

fn set_secmod(gate: &Rc<Gate>, socket: OwnedFd) -> anyhow::Result<()> {
    let channel = Rc::new(Channel::new(socket)?);
    gate.questions.replace(Rc::clone(&channel));
    let gate = Rc::clone(gate);
    spawn_local(async move { gate.questions.run(channel).await });
    Ok(())
}

fn set_link(gate: &Rc<Gate>, socket: OwnedFd) -> anyhow::Result<()> {
    let link = Rc::new(Link::new(socket)?);
    gate.link.replace(Some(Rc::clone(&link)));
    let gate = Rc::clone(gate);
    spawn_local(async move { read_link(&gate, &link).await });
    Ok(())
}

/// Hands on what the dataplane sends until the link ends or is replaced.
async fn read_link(gate: &Gate, link: &Rc<Link>) {
    let mut batch = MessageBatch::new(LINK_BATCH, MAX_FRAME);
    let mut touched: HashMap<Slot, Rc<Tunnel>> = HashMap::new();
    loop {
        match link.receive(&mut batch).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(%error, "link to the dataplane");
                break;
            }
        }
        for index in 0..batch.len() {
            let message = batch.message(index);
            // A defect that one tunnel's packet meets must not end the others.
            let done = catch_unwind(AssertUnwindSafe(|| dispatch(gate, message, &mut touched)));
            if done.is_err() {
                tracing::error!("panic while handling a message of the dataplane");
            }
        }
        touched.drain().for_each(|(_, tunnel)| tunnel.flush());
        // Before more is queued, the runtime shall see which sockets take more.
        tokio::task::yield_now().await;
    }
    let mut current = gate.link.borrow_mut();
    if current
        .as_ref()
        .is_some_and(|current| Rc::ptr_eq(current, link))
    {
        *current = None;
    }
}

fn dispatch(gate: &Gate, message: &[u8], touched: &mut HashMap<Slot, Rc<Tunnel>>) {
    let find = |slot: Slot| gate.tunnels.borrow().get(&slot).cloned();
    match Frame::parse(message) {
        Some(Frame::Packet { slot, packet }) => {
            if let Some(tunnel) = touched.get(&slot) {
                tunnel.send_packet(packet);
            } else if let Some(tunnel) = find(slot) {
                tunnel.send_packet(packet);
                touched.insert(slot, tunnel);
            }
        }
        Some(Frame::Packets { slot, packets }) => {
            if let Some(tunnel) = touched.get(&slot).cloned().or_else(|| find(slot)) {
                packets.for_each(|(_, packet)| tunnel.send_packet(packet));
                // A batch of these is more than may wait for a client.
                tunnel.flush();
            }
        }
        Some(Frame::Datagram {
            slot,
            peer,
            local,
            bytes,
        }) => {
            if let Some(tunnel) = find(slot) {
                tunnel.datagram(Flow { peer, local }, bytes);
            }
        }
        None => tracing::debug!("malformed frame on the link"),
    }
}
