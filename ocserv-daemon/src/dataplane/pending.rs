//! Handshakes under way: to which session the later flights of a flow belong.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ocserv_proto::Now;

use super::channel::Flow;

/// A handshake takes no longer (protocol.md 8.3).
const LIFETIME: Duration = Duration::from_secs(60);
/// Flows of one session that are remembered: a client tries few, and whoever sees its App-ID could
/// name it from any number of addresses.
const FLOWS_PER_SESSION: usize = 4;

/// Flows with their slot, each for a minute.
#[derive(Debug, Default)]
pub struct PendingHandshakes {
    slots: HashMap<Flow, u32>,
    /// Flows of each slot and when they are over; oldest first.
    flows: HashMap<u32, VecDeque<(Flow, Now)>>,
}

impl PendingHandshakes {
    /// Remembers a flow that a ClientHello came by, in place of the session's oldest one if it has
    /// too many.
    pub fn insert(&mut self, flow: Flow, slot: u32, now: Now) {
        self.remove(&flow);
        let flows = self.flows.entry(slot).or_default();
        if flows.len() == FLOWS_PER_SESSION
            && let Some((oldest, _)) = flows.pop_front()
        {
            self.slots.remove(&oldest);
        }
        flows.push_back((flow, now + LIFETIME));
        self.slots.insert(flow, slot);
    }

    fn remove(&mut self, flow: &Flow) {
        if let Some(slot) = self.slots.remove(flow)
            && let Some(flows) = self.flows.get_mut(&slot)
        {
            flows.retain(|(other, _)| other != flow);
        }
    }

    /// The slot that a flow's handshake belongs to.
    pub fn get(&self, flow: &Flow, now: Now) -> Option<u32> {
        let slot = *self.slots.get(flow)?;
        let mut flows = self.flows.get(&slot)?.iter();
        flows
            .any(|(known, ends)| known == flow && now < *ends)
            .then_some(slot)
    }

    /// Forgets what is over. It looks at every flow, so it is not for each packet.
    pub fn expire(&mut self, now: Now) {
        let Self { slots, flows } = self;
        flows.retain(|_, flows| {
            while let Some((oldest, _)) = flows.pop_front_if(|(_, ends)| *ends <= now) {
                slots.remove(&oldest);
            }
            !flows.is_empty()
        });
    }

    /// Forgets the flows of a session.
    pub fn forget(&mut self, slot: u32) {
        for (flow, _) in self.flows.remove(&slot).unwrap_or_default() {
            self.slots.remove(&flow);
        }
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
        pending.insert(flow(1), 7, Duration::from_secs(10));
        assert_eq!(pending.get(&flow(1), Duration::from_secs(69)), Some(7));
        assert_eq!(pending.get(&flow(1), Duration::from_secs(70)), None);
        assert_eq!(pending.get(&flow(2), Duration::from_secs(10)), None);
        pending.forget(7);
        assert_eq!(pending.get(&flow(1), Duration::from_secs(10)), None);
    }

    #[test]
    fn a_session_has_few_flows_and_takes_no_room_from_others() {
        let mut pending = PendingHandshakes::default();
        let at = Duration::from_secs;
        pending.insert(flow(60_000), 1, at(10));
        for port in 0..5000 {
            pending.insert(flow(port), 2, at(11));
        }
        pending.insert(flow(60_001), 3, at(12));
        assert_eq!(pending.get(&flow(60_000), at(12)), Some(1));
        assert_eq!(pending.get(&flow(60_001), at(12)), Some(3));
        assert_eq!(pending.get(&flow(4995), at(12)), None, "the oldest went");
        assert_eq!(pending.get(&flow(4996), at(12)), Some(2));
        assert_eq!(pending.get(&flow(4999), at(12)), Some(2));
        assert_eq!(pending.slots.len(), 2 + FLOWS_PER_SESSION);
    }

    #[test]
    fn a_flow_that_comes_again_is_the_newest() {
        let mut pending = PendingHandshakes::default();
        let at = Duration::from_secs;
        for port in [1, 2, 3, 4, 1, 5] {
            pending.insert(flow(port), 7, at(10));
        }
        assert_eq!(pending.get(&flow(1), at(10)), Some(7));
        assert_eq!(pending.get(&flow(2), at(10)), None);
        pending.insert(flow(1), 8, at(10));
        pending.forget(7);
        assert_eq!(
            pending.get(&flow(1), at(10)),
            Some(8),
            "another session's now"
        );
        assert_eq!(pending.get(&flow(5), at(10)), None);
    }

    #[test]
    fn nothing_is_left_of_what_is_over() {
        let mut pending = PendingHandshakes::default();
        pending.insert(flow(1), 7, Duration::from_secs(10));
        pending.insert(flow(2), 8, Duration::from_secs(11));
        pending.expire(Duration::from_secs(70));
        assert_eq!((pending.slots.len(), pending.flows.len()), (1, 1));
        assert_eq!(pending.get(&flow(2), Duration::from_secs(70)), Some(8));
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
