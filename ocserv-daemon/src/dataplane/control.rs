//! The control task: what the supervisor says becomes changes of the threads' tables.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ocserv_proto::config::NetPriority;
use ocserv_proto::dtls::{ChannelKeys, DtlsChannel};
use ocserv_sys::shared_map::{Backing, SharedSessions};
use ocserv_sys::xsk::Socket;
use tokio::sync::mpsc;

use super::channel::Flow;
use super::clock;
use super::mailbox::{AddedSocket, Mailbox, Report, Update};
use super::session::Session;
use crate::ipc::channel::Channel;
use crate::ipc::dataplane::{FromDataplane, SessionParams, ToDataplane};
use crate::ipc::ids::Slot;

/// A thread that does not come by for so long is stuck.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// What holds for all sessions.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// `try-mtu-discovery`.
    pub mtu_discovery: bool,
    /// The kernel takes a priority with each datagram.
    pub priority_messages: bool,
}

/// The session records.
pub struct Records {
    /// Those whose memory has come.
    pub shared: Arc<SharedSessions>,
    /// What that memory is.
    pub backing: Backing,
}

/// State of the control task.
pub struct Control {
    supervisor: Channel,
    threads: Vec<Mailbox>,
    reports: mpsc::Receiver<Report>,
    records: Records,
    features: Features,
    sessions: HashMap<Slot, Arc<Session>>,
}

/// Keys as the supervisor sends them.
struct NewKeys {
    slot: Slot,
    channel: u8,
    keys: Box<ChannelKeys>,
    flow: Flow,
    generation: u64,
}

impl Control {
    /// A control task over threads that run already.
    pub fn new(
        supervisor: Channel,
        threads: Vec<Mailbox>,
        reports: mpsc::Receiver<Report>,
        records: Records,
        features: Features,
    ) -> Self {
        Self {
            supervisor,
            threads,
            reports,
            records,
            features,
            sessions: HashMap::new(),
        }
    }

    /// Serves until the supervisor says stop or is gone.
    ///
    /// # Errors
    /// When a thread failed or the channel broke: the process must be replaced.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.supervisor
            .send(&FromDataplane::Ready, &[])
            .await
            .context("cannot report")?;
        loop {
            tokio::select! {
                message = self.supervisor.recv::<ToDataplane>() => {
                    match message.context("channel to the supervisor")? {
                        Some((ToDataplane::Stop, _)) | None => break,
                        Some((message, fds)) => self.handle(message, fds).await?,
                    }
                }
                report = self.reports.recv() => match report {
                    Some(Report::Moved(slot, channel, generation, flow)) => {
                        self.moved((slot, channel, generation), flow).await?;
                    }
                    Some(Report::Mtu(slot, mtu)) => self.mtu_found(slot, mtu).await?,
                    Some(Report::Ended(slot, channel, generation)) => {
                        let slot = Slot(slot);
                        let ended = FromDataplane::ChannelEnded { slot, channel, generation };
                        self.supervisor.send(&ended, &[]).await?;
                    }
                    Some(Report::Outputs(thread, ns)) => {
                        let costs = FromDataplane::OutputCosts { thread: thread as u32, ns };
                        self.supervisor.send(&costs, &[]).await?;
                    }
                    Some(Report::Failed(thread, error)) => bail!("packet thread {thread}: {error}"),
                    None => bail!("all packet threads ended"),
                },
            }
        }
        self.tell_all(|| Update::Stop);
        Ok(())
    }

    async fn handle(&mut self, message: ToDataplane, fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        match message {
            ToDataplane::Setup { .. } => bail!("set up twice"),
            ToDataplane::ShardAdded { index } => {
                let memory = fds.first().context("a shard without its memory")?;
                let Records { shared, backing } = &self.records;
                let added = shared.add(index, memory, *backing);
                added.with_context(|| format!("session records, shard {index}"))?;
            }
            ToDataplane::GateAdded { gate } => {
                let link = fds.into_iter().next().context("a gate without its link")?;
                set_nonblocking(&link)?;
                let link = Arc::new(link);
                self.tell_all(|| Update::GateAdded(gate, Arc::clone(&link)));
            }
            ToDataplane::GateRemoved { gate } => self.tell_all(|| Update::GateRemoved(gate)),
            ToDataplane::SessionAdded(params) => self.add_session(*params),
            ToDataplane::KeysAdded {
                slot,
                channel,
                keys,
                peer,
                local,
                generation,
            } => {
                let flow = Flow { peer, local };
                self.add_keys(NewKeys {
                    slot,
                    channel,
                    keys,
                    flow,
                    generation,
                })
                .await?;
            }
            ToDataplane::MtuChanged { slot, mtu } => {
                if let Some(session) = self.sessions.get(&slot) {
                    session.mtu.negotiated(mtu);
                }
            }
            ToDataplane::SessionRemoved { slot } => {
                if let Some(session) = self.sessions.remove(&slot) {
                    // Whoever still holds the session cannot send any more.
                    session.drop_channels();
                    self.tell_all(|| Update::SessionRemoved(slot.0));
                }
            }
            ToDataplane::SocketAdded {
                thread,
                ifindex,
                queue,
                is_lan,
            } => {
                let fd = fds
                    .into_iter()
                    .next()
                    .context("news of a socket without it")?;
                let answer = match Socket::new(fd) {
                    Ok(socket) => {
                        let added = AddedSocket {
                            ifindex,
                            is_lan,
                            socket,
                        };
                        self.add_socket(thread, added).await?;
                        FromDataplane::SocketReady { ifindex, queue }
                    }
                    Err(error) => FromDataplane::SocketRefused {
                        ifindex,
                        queue,
                        error: error.to_string(),
                    },
                };
                self.supervisor.send(&answer, &[]).await?;
            }
            ToDataplane::SocketsGone { ifindex } => {
                self.tell_all(|| Update::SocketsGone(ifindex));
            }
            ToDataplane::Stop => {}
        }
        Ok(())
    }

    /// Returns when the thread serves the socket.
    async fn add_socket(&self, thread: u32, added: AddedSocket) -> anyhow::Result<()> {
        let mailbox = self.threads.get(thread as usize);
        let mailbox = mailbox.context("a socket for a thread that does not exist")?;
        mailbox.post(Update::SocketAdded(Box::new(added)));
        self.barrier().await
    }

    fn add_session(&mut self, mut params: SessionParams) {
        let slot = params.slot;
        if !self.features.priority_messages {
            // The socket is shared, so its own priority cannot do for one session.
            params.net_priority = params
                .net_priority
                .filter(|wanted| matches!(wanted, NetPriority::Tos(_)));
        }
        let shared = Arc::clone(&self.records.shared);
        let Some(session) = Session::new(params, shared, self.features.mtu_discovery) else {
            tracing::error!(
                slot = slot.0,
                "session without a record, or with an impossible prefix, refused"
            );
            return;
        };
        let session = Arc::new(session);
        if let Some(previous) = self.sessions.insert(slot, Arc::clone(&session)) {
            previous.drop_channels();
        }
        self.tell_all(|| Update::SessionAdded(Arc::clone(&session)));
    }

    async fn add_keys(&mut self, new: NewKeys) -> anyhow::Result<()> {
        let slot = new.slot;
        let index = usize::from(new.channel);
        let Some(session) = self.sessions.get(&slot).cloned() else {
            tracing::debug!(slot = slot.0, "keys for a session that is gone");
            return Ok(());
        };
        let Some(record) = session.shared().channels.get(index) else {
            bail!("keys for a channel that does not exist");
        };
        // After a restart nothing is known of the handshake, but the record knows the keys.
        if record.generation() != new.generation && !session.is_clients(&new.flow) {
            let Flow { peer, local } = new.flow;
            tracing::warn!(
                slot = slot.0, %peer, %local,
                "keys for a flow without a handshake: refused"
            );
            return Ok(());
        }
        let crypto = match DtlsChannel::new(&new.keys) {
            Ok(crypto) => crypto,
            Err(error) => {
                tracing::warn!(slot = slot.0, "keys refused: {error}");
                return Ok(());
            }
        };
        // No thread may seal with the key of a former channel and a number of the new one, be it of
        // this session or of the one that had the slot before.
        session.drop_channel(index);
        self.barrier().await?;
        let keys = &new.keys;
        record.start(
            new.generation,
            keys.epoch,
            keys.next_send,
            keys.next_receive,
            clock().as_millis() as u64,
        );
        session.install(index, crypto, new.flow);
        self.tell_all(|| Update::FlowAdded(slot.0, new.flow));
        self.supervisor
            .send(&FromDataplane::KeysInstalled { slot }, &[])
            .await?;
        Ok(())
    }

    /// Returns when every thread has finished the batch that it was working on.
    async fn barrier(&self) -> anyhow::Result<()> {
        let (sender, mut all_dropped) = mpsc::channel(1);
        self.tell_all(|| Update::Barrier(sender.clone()));
        drop(sender);
        let passed = tokio::time::timeout(BARRIER_TIMEOUT, all_dropped.recv()).await;
        passed.map(|_| ()).context("a packet thread is stuck")
    }

    /// A thread saw a channel move: the others and the supervisor must know.
    async fn moved(
        &self,
        (slot, channel, generation): (u32, u8, u64),
        flow: Flow,
    ) -> anyhow::Result<()> {
        self.tell_all(|| Update::FlowAdded(slot, flow));
        let Flow { peer, local } = flow;
        let message = FromDataplane::PeerMoved {
            slot: Slot(slot),
            channel,
            generation,
            peer,
            local,
        };
        Ok(self.supervisor.send(&message, &[]).await?)
    }

    async fn mtu_found(&self, slot: u32, mtu: u16) -> anyhow::Result<()> {
        tracing::debug!(slot, mtu, "the path's MTU");
        let slot = Slot(slot);
        let message = FromDataplane::MtuChanged { slot, mtu };
        Ok(self.supervisor.send(&message, &[]).await?)
    }

    fn tell_all(&self, update: impl Fn() -> Update) {
        // All have it before one acts on it.
        for thread in &self.threads {
            thread.post(update());
        }
        for thread in &self.threads {
            thread.wake();
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> anyhow::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
