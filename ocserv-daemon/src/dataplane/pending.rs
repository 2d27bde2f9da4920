//! Handshakes under way: to which session the later flights of a flow belong.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ocserv_proto::Now;

use super::session::Flow;

/// A handshake takes no longer (protocol.md 8.3).
const LIFETIME: Duration = Duration::from_secs(60);
/// Most flows that are remembered at once.
const MAX_FLOWS: usize = 4096;

/// Flows with their slot, each for a minute.
#[derive(Debug, Default)]
pub struct PendingHandshakes {
    flows: HashMap<Flow, (u32, Now)>,
}

impl PendingHandshakes {
    /// Remembers a flow that a ClientHello came by. `false`: there is no room.
    pub fn insert(&mut self, flow: Flow, slot: u32, now: Now) -> bool {
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&flow) {
            self.expire(now);
            if self.flows.len() >= MAX_FLOWS {
                return false;
            }
        }
        self.flows.insert(flow, (slot, now + LIFETIME));
        true
    }

    /// The slot that a flow's handshake belongs to.
    pub fn get(&self, flow: &Flow, now: Now) -> Option<u32> {
        self.flows
            .get(flow)
            .filter(|(_, ends)| now < *ends)
            .map(|(slot, _)| *slot)
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: Now) {
        self.flows.retain(|_, (_, ends)| now < *ends);
    }

    /// Forgets the flows of a session.
    pub fn forget(&mut self, slot: u32) {
        self.flows.retain(|_, (other, _)| *other != slot);
    }
}

/// A ClientHello may overtake the news of its session by so much.
const HEAD_START: Duration = Duration::from_secs(2);
/// Most ClientHellos that are kept.
const MAX_HELLOS: usize = 64;
/// Longest one that is kept; those of clients have less than 300 bytes.
const MAX_HELLO: usize = 1024;

/// ClientHellos that no session is known for yet: the client sends its first one as soon as it has the
/// answer to CONNECT, and would wait a second before the next.
#[derive(Debug, Default)]
pub struct EarlyHellos {
    /// Oldest first.
    hellos: VecDeque<EarlyHello>,
}

#[derive(Debug)]
struct EarlyHello {
    app_id: [u8; 32],
    flow: Flow,
    ends: Now,
    bytes: Vec<u8>,
}

impl EarlyHellos {
    /// Keeps a ClientHello, in place of the oldest one if there is no room.
    pub fn insert(&mut self, app_id: [u8; 32], flow: Flow, bytes: &[u8], now: Now) {
        if bytes.len() > MAX_HELLO {
            return;
        }
        if self.hellos.len() == MAX_HELLOS {
            self.hellos.pop_front();
        }
        let bytes = bytes.to_vec();
        self.hellos.push_back(EarlyHello {
            app_id,
            flow,
            ends: now + HEAD_START,
            bytes,
        });
    }

    /// Takes the newest ClientHello that names `app_id`; forgets what is over.
    pub fn take(&mut self, app_id: &[u8; 32], now: Now) -> Option<(Flow, Vec<u8>)> {
        self.hellos.retain(|hello| now < hello.ends);
        let index = self
            .hellos
            .iter()
            .rposition(|hello| hello.app_id == *app_id)?;
        self.hellos
            .remove(index)
            .map(|hello| (hello.flow, hello.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            peer: format!("192.0.2.1:{port}").parse().unwrap(),
            local: "198.51.100.1:443".parse().unwrap(),
        }
    }

    #[test]
    fn a_flow_is_known_for_a_minute() {
        let mut pending = PendingHandshakes::default();
        assert!(pending.insert(flow(1), 7, Duration::from_secs(10)));
        assert_eq!(pending.get(&flow(1), Duration::from_secs(69)), Some(7));
        assert_eq!(pending.get(&flow(1), Duration::from_secs(70)), None);
        assert_eq!(pending.get(&flow(2), Duration::from_secs(10)), None);
        pending.forget(7);
        assert_eq!(pending.get(&flow(1), Duration::from_secs(10)), None);
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_by_age() {
        let mut pending = PendingHandshakes::default();
        for port in 0..MAX_FLOWS as u16 {
            assert!(pending.insert(flow(port), 1, Duration::from_secs(10)));
        }
        assert!(!pending.insert(flow(60_000), 1, Duration::from_secs(60)));
        assert!(
            pending.insert(flow(1), 2, Duration::from_secs(60)),
            "a known flow"
        );
        assert!(
            pending.insert(flow(60_000), 1, Duration::from_secs(70)),
            "the others are over"
        );
        assert_eq!(pending.get(&flow(1), Duration::from_secs(70)), Some(2));
    }

    #[test]
    fn an_early_hello_is_kept_for_its_session() {
        let mut early = EarlyHellos::default();
        let at = Duration::from_millis;
        early.insert([1; 32], flow(1), b"one", at(0));
        early.insert([2; 32], flow(2), b"two", at(500));
        early.insert([3; 32], flow(3), &[0; MAX_HELLO + 1], at(500));
        assert_eq!(
            early.take(&[2; 32], at(1999)),
            Some((flow(2), b"two".to_vec()))
        );
        assert_eq!(early.take(&[2; 32], at(1999)), None, "once");
        assert_eq!(early.take(&[3; 32], at(1999)), None, "too long");
        assert_eq!(early.take(&[1; 32], at(2000)), None, "too late");
    }

    #[test]
    fn early_hellos_are_bounded() {
        let mut early = EarlyHellos::default();
        for n in 0..=MAX_HELLOS as u8 {
            early.insert([n; 32], flow(1), b"x", Duration::ZERO);
        }
        assert_eq!(early.take(&[0; 32], Duration::ZERO), None);
        assert!(early.take(&[1; 32], Duration::ZERO).is_some());
        assert!(
            early
                .take(&[MAX_HELLOS as u8; 32], Duration::ZERO)
                .is_some()
        );
    }
}
