//! The other processes as the supervisor sees them: a child, a channel, a bounded outbox.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ocserv_sys::seqpacket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::Event;
use crate::ipc::channel::Channel;
use crate::role::{self, RoleArguments};

/// Messages that may wait for a peer besides those of a restart; a peer that lets more pile up is
/// killed.
const OUTBOX: usize = 4096;
/// How long one message may take to get into a peer's socket.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// A started process.
#[derive(Debug)]
pub struct Peer<Out> {
    outbox: mpsc::Sender<(Out, Vec<OwnedFd>)>,
    child: Child,
}

impl<Out: Serialize + Send + Sync + 'static> Peer<Out> {
    /// Starts a process. What it says becomes `wrap(message)`; its end, `gone()`.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// `bulk` is the number of messages that it may be told at once after its start.
    pub fn start<In: DeserializeOwned + Send + 'static>(
        arguments: &RoleArguments,
        bulk: usize,
        events: mpsc::Sender<Event>,
        wrap: impl Fn(In) -> Event + Send + 'static,
        gone: impl Fn() -> Event + Send + Clone + 'static,
    ) -> std::io::Result<Self> {
        let (ours, theirs) = seqpacket::pair()?;
        let mut command = tokio::process::Command::from(role::command(arguments, theirs)?);
        let child = command.kill_on_drop(true).spawn()?;
        // The command holds the child's end; it must close here, or the child's death is not seen.
        drop(command);
        let channel = std::sync::Arc::new(Channel::new(ours)?);
        let (outbox, inbox) = mpsc::channel(OUTBOX + bulk);
        tokio::spawn(write_loop(
            channel.clone(),
            inbox,
            events.clone(),
            gone.clone(),
        ));
        tokio::spawn(read_loop(channel, events, wrap, gone));
        Ok(Self { outbox, child })
    }

    /// Queues a message. A peer that is dead loses it, and one whose queue is full is killed: its end
    /// is reported, and everything it held is set up again.
    pub fn send(&self, message: Out, fds: Vec<OwnedFd>) {
        let Err(TrySendError::Full(_)) = self.outbox.try_send((message, fds)) else {
            return;
        };
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            tracing::error!(
                pid,
                "a process of the server does not take its messages: killed"
            );
            // It may be gone already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Its process id, 0 once it was reaped.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Makes sure that it is dead and reaps it.
    pub async fn finish(mut self) {
        drop(self.outbox);
        if timeout(Duration::from_secs(1), self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }

    /// Kills it at once; used on a peer that broke the protocol.
    pub fn kill(&mut self) {
        let _ = self.child.start_kill();
    }
}

async fn write_loop<Out: Serialize>(
    channel: std::sync::Arc<Channel>,
    mut inbox: mpsc::Receiver<(Out, Vec<OwnedFd>)>,
    events: mpsc::Sender<Event>,
    gone: impl Fn() -> Event,
) {
    while let Some((message, fds)) = inbox.recv().await {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match timeout(SEND_DEADLINE, channel.send(&message, &borrowed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidInput => {
                tracing::error!("a message between the processes is too long: {error}");
            }
            _ => {
                let _ = events.send(gone()).await;
                return;
            }
        }
    }
}

async fn read_loop<In: DeserializeOwned>(
    channel: std::sync::Arc<Channel>,
    events: mpsc::Sender<Event>,
    wrap: impl Fn(In) -> Event,
    gone: impl Fn() -> Event,
) {
    loop {
        let event = match channel.recv::<In>().await {
            Ok(Some((message, _))) => wrap(message),
            Ok(None) => gone(),
            Err(error) => {
                tracing::error!("a process of the server broke the protocol: {error}");
                gone()
            }
        };
        let over = event.is_gone();
        if events.send(event).await.is_err() || over {
            return;
        }
    }
}
