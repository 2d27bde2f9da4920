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
}

impl Outbox {
    /// Adds a message.
    pub fn push(&self, message: FromGate) {
        self.queue.borrow_mut().push_back(message);
        self.filled.notify_one();
    }

    /// Sends what comes until the channel breaks or the supervisor stops reading.
    ///
    /// # Errors
    /// Always, in the end.
    pub async fn run(&self, channel: &Channel) -> io::Result<()> {
        loop {
            while let Some(message) = self.pop() {
                channel.send(&message, &[]).await?;
                if self.queue.borrow().len() > MAX_QUEUED {
                    return Err(io::Error::other("the supervisor does not read"));
                }
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
