//! How the control task reaches the packet threads: a bounded queue and a wake-up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ocserv_sys::poller::Waker;
use ocserv_sys::xsk;

use super::channel::Flow;
use super::session::Session;
use crate::ipc::ids::GateId;

/// Changes that a thread may leave unread before the control task waits for it.
const CAPACITY: usize = 256;

/// A change of a thread's tables.
pub enum Update {
    /// A gate's packet link.
    GateAdded(GateId, Arc<OwnedFd>),
    /// A gate is gone.
    GateRemoved(GateId),
    /// A session, new or in place of another one.
    SessionAdded(Arc<Session>),
    /// A session is closed.
    SessionRemoved(u32),
    /// Records of a session come by this flow.
    FlowAdded(u32, Flow),
    /// A socket past the host's stack, for this thread alone.
    SocketAdded(Box<AddedSocket>),
    /// The device with this number has no such sockets any more.
    SocketsGone(u32),
    /// To be dropped: whoever waits for all copies to be gone knows then that no thread works with
    /// what it had before.
    Barrier(tokio::sync::mpsc::Sender<()>),
    /// End.
    Stop,
}

/// A socket past the host's stack.
pub struct AddedSocket {
    /// Its device.
    pub ifindex: u32,
    /// The device is towards the networks behind the gateway, not towards clients.
    pub is_lan: bool,
    /// The socket, whose frames are this thread's.
    pub socket: xsk::Socket,
}

/// What a thread tells the control task.
#[derive(Debug)]
pub enum Report {
    /// A channel of a session, by its record and the number of its keys, moved to another address.
    Moved(u32, u8, u64, Flow),
    /// The path of a session takes inner packets of this size.
    Mtu(u32, u16),
    /// The keys of that number in a channel record of a session are not used any more.
    Ended(u32, u8, u64),
    /// What outputs of a thread cost, ns, by direction; NaN: not known.
    Outputs(usize, [f64; 2]),
    /// A thread cannot go on.
    Failed(usize, String),
}

/// The control task's end.
pub struct Mailbox {
    updates: SyncSender<Update>,
    waker: Arc<Waker>,
}

/// The thread's end.
pub struct Inbox {
    /// Waiting changes.
    pub updates: Receiver<Update>,
    /// Readable when there are some.
    pub waker: Arc<Waker>,
}

/// Both ends of a mailbox.
///
/// # Errors
/// `EMFILE`.
pub fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = sync_channel(CAPACITY);
    let waker = Arc::new(Waker::new()?);
    let inbox = Inbox {
        updates: receiver,
        waker: Arc::clone(&waker),
    };
    Ok((
        Mailbox {
            updates: sender,
            waker,
        },
        inbox,
    ))
}

impl Mailbox {
    /// Leaves a change; waits while the thread is [`CAPACITY`] changes behind. A thread that ended
    /// has reported so: what is sent to it is lost.
    pub fn post(&self, update: Update) {
        let _ = self.updates.send(update);
    }

    /// Wakes the thread: something was posted.
    pub fn wake(&self) {
        self.waker.wake();
    }
}
