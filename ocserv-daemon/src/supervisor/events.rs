//! The listener of `occtl show events` (cli.md §4.7): one at a time, and never waited for.

use std::time::Duration;

use ocserv_proto::control::{Event, EventEnd, Response, UserInfo};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::ipc::gate::EndReason;

/// Where events go.
#[derive(Debug, Default)]
pub struct EventFeed {
    listener: Option<mpsc::Sender<Response>>,
}

impl EventFeed {
    /// Nobody listens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether an event would reach someone: spares the caller making one.
    pub fn has_listener(&self) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|listener| !listener.is_closed())
    }

    /// A client asked for events: it gets the users of now, and what comes, unless another client
    /// listens.
    pub fn subscribe(&mut self, client: mpsc::Sender<Response>, users: Vec<UserInfo>) {
        if client.try_send(Response::Users(users)).is_err() {
            return;
        }
        if self.has_listener() {
            let refusal = "another client listens to events already".to_owned();
            // A client that left needs no refusal.
            let _ = client.try_send(Response::Failed(refusal));
        } else {
            self.listener = Some(client);
        }
    }

    /// A user's tunnel is open.
    pub fn connected(&mut self, user: UserInfo) {
        self.publish(Event { user, end: None });
    }

    /// A user's tunnel ended after `lasted`.
    pub fn disconnected(&mut self, user: UserInfo, reason: EndReason, lasted: Duration) {
        let end = EventEnd {
            reason: reason.words().to_owned(),
            duration: lasted.as_secs(),
        };
        self.publish(Event {
            user,
            end: Some(end),
        });
    }

    /// Tells the listener. One that does not keep up misses events.
    fn publish(&mut self, event: Event) {
        let Some(listener) = &self.listener else {
            return;
        };
        match listener.try_send(Response::Event(Box::new(event))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::debug!("ctl: the listener does not keep up: an event is lost");
            }
            Err(TrySendError::Closed(_)) => self.listener = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u32) -> UserInfo {
        UserInfo {
            id,
            ..UserInfo::default()
        }
    }

    fn came(id: u32) -> Result<Response, mpsc::error::TryRecvError> {
        Ok(Response::Event(Box::new(Event {
            user: user(id),
            end: None,
        })))
    }

    const NOBODY: Result<Response, mpsc::error::TryRecvError> = Ok(Response::Users(Vec::new()));

    #[test]
    fn one_listener_gets_users_then_events() {
        let mut feed = EventFeed::new();
        let (first, mut first_answers) = mpsc::channel(8);
        let (second, mut second_answers) = mpsc::channel(8);
        feed.subscribe(first, Vec::new());
        feed.subscribe(second, Vec::new());
        feed.connected(user(1));
        feed.disconnected(user(1), EndReason::IdleTimeout, Duration::from_secs(9));
        assert_eq!(first_answers.try_recv(), NOBODY);
        assert_eq!(first_answers.try_recv(), came(1));
        let end = EventEnd {
            reason: "idle timeout".to_owned(),
            duration: 9,
        };
        let left = Event {
            user: user(1),
            end: Some(end),
        };
        assert_eq!(
            first_answers.try_recv(),
            Ok(Response::Event(Box::new(left)))
        );
        assert_eq!(second_answers.try_recv(), NOBODY);
        assert!(matches!(second_answers.try_recv(), Ok(Response::Failed(_))));
    }

    #[test]
    fn a_listener_that_left_is_replaced() {
        let mut feed = EventFeed::new();
        let (first, first_answers) = mpsc::channel(8);
        feed.subscribe(first, Vec::new());
        drop(first_answers);
        assert!(!feed.has_listener());
        let (second, mut second_answers) = mpsc::channel(8);
        feed.subscribe(second, Vec::new());
        feed.connected(user(2));
        assert_eq!(second_answers.try_recv(), NOBODY);
        assert_eq!(second_answers.try_recv(), came(2));
    }

    #[test]
    fn a_slow_listener_loses_events_and_holds_nobody() {
        let mut feed = EventFeed::new();
        let (client, mut answers) = mpsc::channel(2);
        feed.subscribe(client, Vec::new());
        for id in 0..100 {
            feed.connected(user(id));
        }
        assert_eq!(answers.try_recv(), NOBODY);
        assert_eq!(answers.try_recv(), came(0));
        assert!(answers.try_recv().is_err());
    }
}
