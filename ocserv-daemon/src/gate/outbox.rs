//! Messages to the supervisor, from places that cannot wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

use tokio::sync::Notify;

use crate::ipc::channel::Channel;
use crate::ipc::gate::FromGate;

/// Most messages in the queue. A supervisor so far behind is as good as dead.
const MAX_QUEUED: usize = 65_536;

/// Queue of messages, sent in order by [`Outbox::run`].
#[derive(Default)]
pub struct Outbox {
    queue: RefCell<VecDeque<FromGate>>,
    filled: Notify,
    overflowed: Notify,
}

impl Outbox {
    /// Adds a message. One that finds the queue full is lost and ends [`Self::run`].
    pub fn push(&self, message: FromGate) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= MAX_QUEUED {
            self.overflowed.notify_one();
            return;
        }
        queue.push_back(message);
        self.filled.notify_one();
    }

    /// Sends what comes until the channel breaks or the supervisor stops reading.
    ///
    /// # Errors
    /// Always, in the end.
    pub async fn run(&self, channel: &Channel) -> io::Result<()> {
        tokio::select! {
            () = self.overflowed.notified() => {
                Err(io::Error::other("the supervisor does not read"))
            }
            broken = self.send_all(channel) => broken,
        }
    }

    async fn send_all(&self, channel: &Channel) -> io::Result<()> {
        loop {
            while let Some(message) = self.pop() {
                channel.send(&message, &[]).await?;
            }
            self.filled.notified().await;
        }
    }

    /// True when everything was handed to the channel.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    fn pop(&self) -> Option<FromGate> {
        self.queue.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use ocserv_sys::seqpacket;
    use tokio::task::{LocalSet, spawn_local, yield_now};
    use tokio::time::timeout;

    use super::*;

    /// The test would hang without it.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_full_queue_ends_the_sender_that_waits_for_the_supervisor() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (_unread, gate) = seqpacket::pair().unwrap();
            let channel = Channel::new(gate).unwrap();
            let outbox = Rc::new(Outbox::default());
            let sender = Rc::clone(&outbox);
            let running = spawn_local(async move { sender.run(&channel).await });
            for _ in 0..MAX_QUEUED {
                outbox.push(FromGate::Ready);
            }
            // The socket takes what it can; from then on the sender waits for room.
            let mut left = MAX_QUEUED;
            loop {
                yield_now().await;
                let before = std::mem::replace(&mut left, outbox.queue.borrow().len());
                if left > 0 && left < MAX_QUEUED && left == before {
                    break;
                }
            }
            for _ in 0..MAX_QUEUED + 1 {
                outbox.push(FromGate::Ready);
            }
            assert_eq!(outbox.queue.borrow().len(), MAX_QUEUED);
            let ended = timeout(PATIENCE, running).await.unwrap().unwrap();
            assert!(ended.is_err());
        });
    }
}
