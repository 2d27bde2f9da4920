//! The gate: TLS, HTTP, the login dialogue, CSTP and DTLS handshakes of many connections.
//!
//! It parses whatever comes from outside and holds nothing of value: private keys, passwords and
//! cookies are the security module's, session keys leave for the dataplane. One thread serves all
//! connections, each by its own task; handshake steps that may sign run on blocking threads. What a
//! hostile client can reach ends with its connection.

mod connection;
mod dtls;
mod link;
mod login;
mod opening;
mod outbox;
mod packets;
mod questions;
mod settings;
mod supervisor;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use ocserv_proto::Now;
use ocserv_sys::sandbox;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::connection::Event;
use self::dtls::DtlsContext;
use self::link::Link;
use self::outbox::Outbox;
use self::packets::Packets;
use self::questions::Questions;
use self::settings::Settings;
use self::tls::SignPool;
use self::tunnel::Tunnel;
use crate::confine::confine;
use crate::ipc::ids::{ConnId, Slot};
use crate::role::Confinement;

/// One read of a TLS socket, in bytes; the buffer is shared by all connections.
const SCRATCH: usize = 64 * 1024;

/// What all connections share.
struct Gate {
    started: Instant,
    outbox: Outbox,
    questions: Questions,
    signing: Arc<SignPool>,
    dtls: DtlsContext,
    settings: RefCell<Arc<Settings>>,
    link: RefCell<Option<Rc<Link>>>,
    connections: RefCell<HashMap<ConnId, mpsc::Sender<Event>>>,
    tunnels: RefCell<HashMap<Slot, Rc<Tunnel>>>,
    scratch: RefCell<Box<[u8]>>,
    packets: RefCell<Packets>,
}

impl Gate {
    fn now(&self) -> Now {
        self.started.elapsed()
    }

    fn instant(&self, at: Now) -> Instant {
        self.started + at
    }

    fn link(&self) -> Option<Rc<Link>> {
        self.link.borrow().clone()
    }

    fn forget(&self, conn: ConnId) {
        self.connections.borrow_mut().remove(&conn);
    }
}

/// Runs the gate role until the supervisor closes its channel.
///
/// # Errors
/// When a message of the start is missing or the sandbox cannot be built.
pub fn run(supervisor: OwnedFd, confinement: Confinement) -> anyhow::Result<()> {
    let start = supervisor::receive_start(&supervisor).context("start of the gate")?;
    confine(&confinement, sandbox::Role::Gate)?;
    serve(supervisor, start)
}

fn serve(supervisor: OwnedFd, start: supervisor::Start) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(start.signing.len().max(1))
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, supervisor::run(supervisor, start))
}
