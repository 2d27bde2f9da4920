//! The listener of `occtl show events` (cli.md §4.7): one at a time, and never waited for.

use ocserv_proto::control::{Event, Response, UserInfo};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Where events go.
#[derive(Debug, Default)]
pub struct Events {
    listener: Option<mpsc::Sender<Response>>,
}

impl Events {
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

    /// Tells the listener. One that does not keep up misses events.
    pub fn publish(&mut self, event: Event) {
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

    fn event(id: u32) -> Event {
        Event {
            user: UserInfo {
                id,
                ..UserInfo::default()
            },
            end: None,
        }
    }

    #[test]
    fn one_listener_gets_users_then_events() {
        let mut events = Events::new();
        let (first, mut first_answers) = mpsc::channel(8);
        let (second, mut second_answers) = mpsc::channel(8);
        events.subscribe(first, Vec::new());
        events.subscribe(second, Vec::new());
        events.publish(event(1));
        assert_eq!(first_answers.try_recv(), Ok(Response::Users(Vec::new())));
        assert_eq!(
            first_answers.try_recv(),
            Ok(Response::Event(Box::new(event(1))))
        );
        assert_eq!(second_answers.try_recv(), Ok(Response::Users(Vec::new())));
        assert!(matches!(second_answers.try_recv(), Ok(Response::Failed(_))));
    }

    #[test]
    fn a_listener_that_left_is_replaced() {
        let mut events = Events::new();
        let (first, first_answers) = mpsc::channel(8);
        events.subscribe(first, Vec::new());
        drop(first_answers);
        assert!(!events.has_listener());
        let (second, mut second_answers) = mpsc::channel(8);
        events.subscribe(second, Vec::new());
        events.publish(event(2));
        assert_eq!(second_answers.try_recv(), Ok(Response::Users(Vec::new())));
        assert_eq!(
            second_answers.try_recv(),
            Ok(Response::Event(Box::new(event(2))))
        );
    }

    #[test]
    fn a_slow_listener_loses_events_and_holds_nobody() {
        let mut events = Events::new();
        let (client, mut answers) = mpsc::channel(2);
        events.subscribe(client, Vec::new());
        for id in 0..100 {
            events.publish(event(id));
        }
        assert_eq!(answers.try_recv(), Ok(Response::Users(Vec::new())));
        assert_eq!(answers.try_recv(), Ok(Response::Event(Box::new(event(0)))));
        assert!(answers.try_recv().is_err());
    }
}
