//! The security module: private keys, passwords, cookies.
//!
//! One process, one thread for the channels, a few for work that takes a processor. It parses
//! messages of gates (hostile), password files and per-user files, nothing from the network.

mod conversation;
mod gates;
mod keys;
mod logins;
mod method;
mod opening;
mod plain;
mod sessions;
mod setup;
#[cfg(test)]
mod test_bed;
#[cfg(test)]
mod test_keys;
#[cfg(test)]
mod tests;
mod tls_cache;
mod user_files;
mod work;

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use ocserv_proto::secret::Secret;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::ipc::channel::Channel;
use crate::ipc::secmod::{FromSecmod, ToSecmod};
use conversation::Conversations;
use sessions::SessionTable;
use setup::Active;
use tls_cache::TlsCache;
use work::Pool;

/// Events that wait for the supervisor; whoever makes more of them waits too.
const EVENT_QUEUE: usize = 1024;
/// Shortest interval of cleaning.
const MIN_CLEANUP: Duration = Duration::from_secs(1);

/// Runs the role until the supervisor says stop or is gone.
///
/// # Errors
/// When no runtime can be made, or the supervisor's channel breaks.
pub fn run(supervisor: OwnedFd) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(work::threads())
        .build()
        .context("cannot start the runtime")?;
    let result = LocalSet::new().block_on(&runtime, serve(supervisor));
    runtime.shutdown_background();
    result
}

/// What the tasks share. One thread runs them all; no borrow lives across a wait.
struct Secmod {
    state: RefCell<State>,
    pool: Pool,
    events: mpsc::Sender<FromSecmod>,
}

struct State {
    active: Option<Rc<Active>>,
    ticket_key: Secret,
    sessions: SessionTable,
    conversations: Conversations,
    tls: TlsCache,
}

async fn serve(supervisor: OwnedFd) -> anyhow::Result<()> {
    let channel = Channel::new(supervisor).context("channel to the supervisor")?;
    let (events, queue) = mpsc::channel(EVENT_QUEUE);
    let secmod = Rc::new(Secmod {
        state: RefCell::new(State {
            active: None,
            ticket_key: Secret::default(),
            sessions: SessionTable::default(),
            conversations: Conversations::default(),
            tls: TlsCache::new(0),
        }),
        pool: Pool::new(),
        events,
    });
    tokio::task::spawn_local(clean_up(Rc::clone(&secmod)));
    let result = tokio::select! {
        result = receive(&secmod, &channel) => result,
        result = send_events(&channel, queue) => result,
    };
    match result {
        // The supervisor is gone, and with it the reason to be here.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ) =>
        {
            Ok(())
        }
        other => other.context("channel to the supervisor"),
    }
}

async fn receive(secmod: &Rc<Secmod>, channel: &Channel) -> io::Result<()> {
    while let Some((message, fds)) = channel.recv::<ToSecmod>().await? {
        match message {
            ToSecmod::Configure => secmod.configure(fds).await,
            ToSecmod::GateAdded { gate } => gates::serve(secmod, gate, fds),
            ToSecmod::OpenSession {
                request,
                ticket,
                cookie,
            } => {
                let secmod = Rc::clone(secmod);
                tokio::task::spawn_local(async move {
                    let result = secmod.open_session(&ticket, &cookie).await;
                    secmod
                        .emit(FromSecmod::SessionOpened { request, result })
                        .await;
                });
            }
            ToSecmod::CloseSession {
                name,
                conn,
                keep_cookie,
            } => {
                secmod.close_session(&name, Some(conn), keep_cookie).await;
            }
            ToSecmod::InvalidateSession { name } => secmod.close_session(&name, None, false).await,
            ToSecmod::Restore { sessions } => secmod.state.borrow_mut().sessions.restore(sessions),
            ToSecmod::Stop => return Ok(()),
        }
    }
    Ok(())
}

async fn send_events(channel: &Channel, mut queue: mpsc::Receiver<FromSecmod>) -> io::Result<()> {
    while let Some(event) = queue.recv().await {
        channel.send(&event, &[]).await?;
    }
    Ok(())
}

async fn clean_up(secmod: Rc<Secmod>) {
    loop {
        let interval = secmod
            .active()
            .map_or(MIN_CLEANUP, |active| active.config.sec_mod_db_cleanup_time);
        tokio::time::sleep(interval.max(MIN_CLEANUP)).await;
        secmod.expire(SystemTime::now()).await;
    }
}

impl Secmod {
    /// The configuration in force.
    fn active(&self) -> Option<Rc<Active>> {
        self.state.borrow().active.clone()
    }

    fn ticket_key(&self) -> Secret {
        self.state.borrow().ticket_key.clone()
    }

    async fn emit(&self, event: FromSecmod) {
        // Without a receiver the role is ending.
        let _ = self.events.send(event).await;
    }

    async fn expire(&self, now: SystemTime) {
        let gone = {
            let mut state = self.state.borrow_mut();
            state.tls.expire(Instant::now());
            let gone = state.sessions.expire(now);
            for record in &gone {
                state.conversations.remove(&record.cookie_hash);
            }
            gone
        };
        for record in gone {
            self.emit(FromSecmod::SessionGone { name: record.name })
                .await;
        }
    }
}
