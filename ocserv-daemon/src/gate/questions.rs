//! Questions of the login dialogue to the security module, and their answers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ocserv_proto::login::{Outcome, Question};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::ipc::channel::Channel;
use crate::ipc::ids::ConnTicket;
use crate::ipc::secmod::{AuthOutcome, AuthQuestion, AuthReply, AuthRequest};

/// What the client hears when the security module cannot answer (protocol.md 4.5).
const INTERNAL_ERROR: &str = "Internal error";
/// Longest wait for the successor of a security module that has ended.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(10);

/// Open questions, at most one for each connection.
#[derive(Default)]
pub struct Questions {
    channel: RefCell<Option<Rc<Channel>>>,
    replaced: Notify,
    pending: RefCell<HashMap<u64, oneshot::Sender<AuthOutcome>>>,
    last: Cell<u64>,
}

impl Questions {
    /// Asks by this channel from now on. Open questions will not be answered any more.
    pub fn replace(&self, channel: Rc<Channel>) {
        self.pending.borrow_mut().clear();
        self.channel.replace(Some(channel));
        self.replaced.notify_waiters();
    }

    /// Reads answers until the channel ends.
    pub async fn run(&self, channel: Rc<Channel>) {
        loop {
            match channel.recv::<AuthReply>().await {
                Ok(Some((reply, _))) => {
                    if let Some(asker) = self.pending.borrow_mut().remove(&reply.request) {
                        // An asker that is gone does not care.
                        let _ = asker.send(reply.outcome);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "channel to secmod");
                    break;
                }
            }
        }
        if self.forget(&channel) {
            self.pending.borrow_mut().clear();
        }
    }

    /// Asks and waits; the caller bounds the time. A question that could not be sent goes to the
    /// successor of a security module that has ended. One whose answer is lost does not, since it
    /// may be what ended it: the user sees the form again.
    pub async fn ask(&self, ticket: &ConnTicket, vhost: u32, question: Question) -> Outcome {
        let mut request = AuthRequest {
            request: 0,
            ticket: ticket.clone(),
            question: to_ipc(vhost, question),
        };
        while let Ok(channel) = timeout(SUCCESSOR_TIMEOUT, self.open_channel()).await {
            let (asker, answer) = oneshot::channel();
            let entry = self.enter(asker);
            request.request = entry.request;
            match channel.send(&request, &[]).await {
                Ok(()) => return answer.await.map_or(Outcome::Known(false), from_ipc),
                Err(error) if is_gone(&error) => {
                    self.forget(&channel);
                }
                Err(error) => {
                    tracing::warn!(%error, "question to secmod");
                    break;
                }
            }
        }
        Outcome::Denied {
            reason: INTERNAL_ERROR.to_owned(),
        }
    }

    async fn open_channel(&self) -> Rc<Channel> {
        loop {
            let replaced = self.replaced.notified();
            if let Some(channel) = self.channel.borrow().clone() {
                return channel;
            }
            replaced.await;
        }
    }

    /// Whether this was the channel in use.
    fn forget(&self, channel: &Rc<Channel>) -> bool {
        let mut current = self.channel.borrow_mut();
        let is_current = current
            .as_ref()
            .is_some_and(|current| Rc::ptr_eq(current, channel));
        if is_current {
            *current = None;
        }
        is_current
    }

    fn enter(&self, asker: oneshot::Sender<AuthOutcome>) -> Entry<'_> {
        let request = self.last.get().wrapping_add(1);
        self.last.set(request);
        self.pending.borrow_mut().insert(request, asker);
        Entry {
            questions: self,
            request,
        }
    }
}

/// An open question; forgotten with the connection that asked.
struct Entry<'a> {
    questions: &'a Questions,
    request: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.questions.pending.borrow_mut().remove(&self.request);
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn to_ipc(vhost: u32, question: Question) -> AuthQuestion {
    match question {
        Question::Start {
            username,
            group,
            password,
            user_agent,
        } => AuthQuestion::Start {
            vhost,
            username,
            group,
            password,
            user_agent,
        },
        Question::Continue { sid, password } => AuthQuestion::Continue { sid, password },
        Question::Check { cookie } => AuthQuestion::Check { cookie },
    }
}

fn from_ipc(outcome: AuthOutcome) -> Outcome {
    match outcome {
        AuthOutcome::Challenge {
            sid,
            message,
            counter,
        } => Outcome::Challenge {
            sid,
            message,
            counter,
        },
        AuthOutcome::Granted { cookie, .. } => Outcome::Granted { cookie },
        AuthOutcome::Denied { reason } => Outcome::Denied { reason },
        AuthOutcome::Known(known) => Outcome::Known(known),
        AuthOutcome::OwnProfile(content) => Outcome::OwnProfile(content),
    }
}
