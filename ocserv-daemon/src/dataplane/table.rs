//! A thread's own copy of what it looks sessions up by.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::channel::Flow;
use super::routes::Routes;
use super::session::Session;

/// Flows of one session that are remembered; a client that moves on leaves old ones behind.
const FLOWS_PER_SESSION: usize = 4;

/// Sessions by slot, inner address, UDP flow, App-ID and UDP address.
#[derive(Default)]
pub struct SessionTable {
    entries: Vec<Option<Entry>>,
    count: usize,
    routes: Routes,
    flows: HashMap<Flow, u32>,
    app_ids: HashMap<[u8; 32], u32>,
    by_ip: HashMap<IpAddr, Vec<u32>>,
    /// What was asked last, since packets come in runs of one session.
    last_flow: Cell<Option<(Flow, u32)>>,
    /// The same of inner addresses.
    last_address: Cell<Option<(IpAddr, u32)>>,
}

struct Entry {
    session: Arc<Session>,
    /// Oldest first.
    flows: Vec<Flow>,
}

impl SessionTable {
    /// Adds a session, in place of another one of the same slot.
    pub fn add(&mut self, session: Arc<Session>) {
        let slot = session.slot();
        self.remove(slot);
        self.forget_answers();
        for prefix in session.prefixes() {
            self.routes.add(*prefix, slot);
        }
        if let Some(app_id) = session.params.app_id {
            self.app_ids.insert(app_id, slot);
        }
        let index = slot as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(Entry {
            session,
            flows: Vec::new(),
        });
        self.count += 1;
    }

    /// Forgets a session.
    pub fn remove(&mut self, slot: u32) {
        let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.count -= 1;
        self.forget_answers();
        for prefix in entry.session.prefixes() {
            self.routes.remove(*prefix, slot);
        }
        if let Some(app_id) = entry.session.params.app_id
            && self.app_ids.get(&app_id) == Some(&slot)
        {
            self.app_ids.remove(&app_id);
        }
        for flow in entry.flows {
            self.forget_flow(slot, flow);
        }
    }

    /// Remembers that a session's records come by this flow.
    pub fn learn_flow(&mut self, slot: u32, flow: Flow) {
        self.forget_answers();
        let Some(Some(entry)) = self.entries.get_mut(slot as usize) else {
            return;
        };
        let oldest = match entry.flows.iter().position(|known| *known == flow) {
            Some(index) => {
                entry.flows.remove(index);
                None
            }
            None if entry.flows.len() == FLOWS_PER_SESSION => Some(entry.flows.remove(0)),
            None => None,
        };
        entry.flows.push(flow);
        if let Some(oldest) = oldest {
            self.forget_flow(slot, oldest);
        }
        self.flows.insert(flow, slot);
        let slots = self.by_ip.entry(flow.peer.ip()).or_default();
        if !slots.contains(&slot) {
            slots.push(slot);
        }
    }

    fn forget_flow(&mut self, slot: u32, flow: Flow) {
        if self.flows.get(&flow) == Some(&slot) {
            self.flows.remove(&flow);
        }
        let ip = flow.peer.ip();
        let entry = self.entries.get(slot as usize).and_then(Option::as_ref);
        if entry.is_some_and(|entry| entry.flows.iter().any(|flow| flow.peer.ip() == ip)) {
            return;
        }
        if let Some(slots) = self.by_ip.get_mut(&ip) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_ip.remove(&ip);
            }
        }
    }

    fn forget_answers(&self) {
        self.last_flow.set(None);
        self.last_address.set(None);
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.entries.iter().flatten().map(|entry| &entry.session)
    }

    /// The session of a slot.
    pub fn by_slot(&self, slot: u32) -> Option<&Arc<Session>> {
        self.entries
            .get(slot as usize)?
            .as_ref()
            .map(|entry| &entry.session)
    }

    /// The session that an inner destination belongs to.
    pub fn by_address(&self, destination: IpAddr) -> Option<&Arc<Session>> {
        if let Some((address, slot)) = self.last_address.get()
            && address == destination
        {
            return self.by_slot(slot);
        }
        let slot = self.routes.find(destination)?;
        self.last_address.set(Some((destination, slot)));
        self.by_slot(slot)
    }

    /// The session whose records come by this flow.
    pub fn by_flow(&self, flow: &Flow) -> Option<&Arc<Session>> {
        if let Some((known, slot)) = self.last_flow.get()
            && known == *flow
        {
            return self.by_slot(slot);
        }
        let slot = *self.flows.get(flow)?;
        self.last_flow.set(Some((*flow, slot)));
        self.by_slot(slot)
    }

    /// The session that a ClientHello names.
    pub fn by_app_id(&self, app_id: &[u8; 32]) -> Option<&Arc<Session>> {
        self.by_slot(*self.app_ids.get(app_id)?)
    }

    /// Slots of sessions that were heard from this address by UDP.
    pub fn heard_from(&self, ip: IpAddr) -> &[u32] {
        self.by_ip.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// Puts the first `count` of [`Self::heard_from`] behind the others.
    pub fn look_further(&mut self, ip: IpAddr, count: usize) {
        if let Some(slots) = self.by_ip.get_mut(&ip) {
            let count = count.min(slots.len());
            slots.rotate_left(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{flow, params, records, session};
    use super::*;
    use crate::ipc::dataplane::SessionParams;

    fn slot(session: Option<&Arc<Session>>) -> Option<u32> {
        session.map(|session| session.slot())
    }

    #[test]
    fn a_session_is_found_by_all_its_names_and_by_none_afterwards() {
        let mut table = SessionTable::default();
        table.add(Arc::new(session(1)));
        table.learn_flow(1, flow("192.0.2.1:1000"));
        let names = |table: &SessionTable| {
            [
                slot(table.by_slot(1)),
                slot(table.by_address("10.9.0.3".parse().unwrap())),
                slot(table.by_address("192.168.7.9".parse().unwrap())),
                slot(table.by_address("fd00::1:9".parse().unwrap())),
                slot(table.by_app_id(&[1; 32])),
                slot(table.by_flow(&flow("192.0.2.1:1000"))),
                table
                    .heard_from("192.0.2.1".parse().unwrap())
                    .first()
                    .copied(),
            ]
        };
        assert_eq!(names(&table), [Some(1); 7]);
        table.remove(1);
        assert_eq!(names(&table), [None; 7]);
        assert!(table.is_empty());
        table.remove(99);
    }

    #[test]
    fn old_flows_of_a_session_are_forgotten() {
        let mut table = SessionTable::default();
        table.add(Arc::new(session(1)));
        for n in 0..=FLOWS_PER_SESSION {
            table.learn_flow(1, flow(&format!("192.0.2.{n}:1")));
        }
        assert_eq!(slot(table.by_flow(&flow("192.0.2.0:1"))), None);
        assert!(table.heard_from("192.0.2.0".parse().unwrap()).is_empty());
        assert_eq!(slot(table.by_flow(&flow("192.0.2.1:1"))), Some(1));
    }

    #[test]
    fn a_flow_that_another_session_took_stays_with_it() {
        let mut table = SessionTable::default();
        table.add(Arc::new(session(1)));
        table.add(Arc::new(session(2)));
        table.learn_flow(1, flow("192.0.2.1:1"));
        table.learn_flow(2, flow("192.0.2.1:1"));
        table.remove(1);
        assert_eq!(slot(table.by_flow(&flow("192.0.2.1:1"))), Some(2));
        assert_eq!(table.heard_from("192.0.2.1".parse().unwrap()), [2]);
    }

    #[test]
    fn an_app_id_that_another_session_took_stays_with_it() {
        let mut table = SessionTable::default();
        let same = |slot| {
            let params = SessionParams {
                app_id: Some([9; 32]),
                ..params(slot)
            };
            Arc::new(Session::new(params, records(), false).unwrap())
        };
        table.add(same(1));
        table.add(same(2));
        table.remove(1);
        assert_eq!(slot(table.by_app_id(&[9; 32])), Some(2));
    }

    #[test]
    fn what_was_asked_last_is_asked_again_after_a_change() {
        let mut table = SessionTable::default();
        table.add(Arc::new(session(1)));
        let (flow, address) = (flow("192.0.2.1:1"), "192.168.7.9".parse().unwrap());
        table.learn_flow(1, flow);
        let ask =
            |table: &SessionTable| [slot(table.by_flow(&flow)), slot(table.by_address(address))];
        assert_eq!(ask(&table), [Some(1); 2]);
        // It has the same network.
        table.add(Arc::new(session(2)));
        assert_eq!(ask(&table), [Some(1), Some(2)]);
        table.learn_flow(2, flow);
        assert_eq!(ask(&table), [Some(2); 2]);
        table.remove(2);
        assert_eq!(ask(&table), [None, Some(1)]);
    }
}
