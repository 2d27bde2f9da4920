//! Handshakes under way: to which session the later flights of a flow belong.

use std::collections::HashMap;
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
}
